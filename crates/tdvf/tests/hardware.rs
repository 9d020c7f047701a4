//! Real firmware against what Intel hardware signed. Needs recorded data outside of the project.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use seamlock_tdvf::{Gpaw, LaunchPlan, MemoryLayout, Metadata, Order, mrtd};

/// Where the TD report's MRTD stands in a version 5 quote.
const MRTD_IN_QUOTE: usize = 190;

fn files(suffix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/hardware");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found.sort();
    found
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut image = Vec::new();
    let file = fs::File::open(path).expect("readable");
    liblzma::read::XzDecoder::new(file)
        .read_to_end(&mut image)
        .expect("xz");
    image
}

#[test]
fn predicted_mrtd_of_real_firmware_is_the_one_in_a_signed_quote() {
    let images = files(".fd.xz");
    if images.is_empty() {
        println!("skipped: no recorded firmware images beside the project");
        return;
    }
    let quotes: Vec<_> = files(".dat")
        .iter()
        .map(|path| fs::read(path).expect("readable"))
        .collect();
    for path in images {
        let image = unpacked(&path);
        for memory in [256 << 20, 64 << 30] {
            let layout = MemoryLayout::q35(memory, image.len() as u64, Gpaw::Bits48).unwrap();
            let plan = LaunchPlan::new(&image, layout).unwrap();
            let mrtd = mrtd::predict(&plan, &image, Order::PerPage);
            let signed = quotes.iter().any(|quote| {
                quote.get(MRTD_IN_QUOTE..MRTD_IN_QUOTE + 48) == Some(mrtd.0.as_slice())
            });
            assert!(signed, "{}: no quote has {mrtd}", path.display());
        }
    }
}

#[test]
fn every_truncation_and_bit_flip_in_the_tail_of_real_firmware_is_answered() {
    let Some(path) = files(".fd.xz").into_iter().next() else {
        println!("skipped: no recorded firmware images beside the project");
        return;
    };
    let mut image = unpacked(&path);
    for len in (0..image.len()).step_by(4096).chain([1, 47, 48, 4095]) {
        assert!(Metadata::parse(&image[..len]).is_err(), "{len} bytes");
    }
    let at = Metadata::parse(&image).unwrap().descriptor_offset;
    let layout = MemoryLayout::q35(1 << 30, image.len() as u64, Gpaw::Bits48).unwrap();
    let tail = image.len() - 128;
    for byte in (at..at + 208).chain(tail..image.len()) {
        for bit in 0..8 {
            image[byte] ^= 1 << bit;
            let _ = LaunchPlan::new(&image, layout);
            image[byte] ^= 1 << bit;
        }
    }
}
