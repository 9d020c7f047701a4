//! The firmware and what a VMM makes of it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use seamlock_tdvf::{Gpaw, LaunchPlan, MAX_IMAGE_LEN, MemoryLayout, builtin, check_image_len};

use crate::failure::BadInput;

/// An image with the plan of its launch.
#[derive(Debug)]
pub struct Firmware {
    /// Where it comes from, for people.
    pub name: String,
    /// The image.
    pub image: Arc<[u8]>,
    /// What is added to the TD, in order.
    pub plan: LaunchPlan,
}

impl Firmware {
    /// Reads and checks an image, or takes the one that comes with seamlock.
    ///
    /// # Errors
    /// One line that names the file, and the section and field where that is what is wrong.
    pub fn load(path: Option<&Path>, memory: u64) -> Result<Firmware, BadInput> {
        let (name, image) = match path {
            None => ("built-in image".to_owned(), builtin::image()),
            Some(path) => (path.display().to_string(), read(path)?),
        };
        Firmware::plan(name, image, memory)
    }

    /// Checks an image and plans its launch.
    ///
    /// # Errors
    /// As [`load`](Firmware::load).
    pub fn plan(name: String, image: Vec<u8>, memory: u64) -> Result<Firmware, BadInput> {
        let plan = MemoryLayout::q35(memory, image.len() as u64, Gpaw::Bits48)
            .and_then(|layout| LaunchPlan::new(&image, layout))
            .map_err(|error| BadInput(format!("{name}: {error}")))?;
        Ok(Firmware {
            name,
            image: image.into(),
            plan,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadInput> {
    let name = path.display();
    let bad = |error: std::io::Error| BadInput(format!("{name}: {error}"));
    let file = File::open(path).map_err(bad)?;
    let meta = file.metadata().map_err(bad)?;
    if meta.is_dir() {
        return Err(BadInput(format!("{name}: a folder, not a firmware image")));
    }
    // A pipe or device has no length; it is read no further than an image may reach.
    if meta.is_file() {
        let mut head = [0; 8];
        let got = file.read_at(&mut head, 0).map_err(bad)?;
        if let Some(what) = known_as(&head[..got]) {
            return Err(BadInput(format!("{name}: {what}")));
        }
        check_image_len(meta.len()).map_err(|error| BadInput(format!("{name}: {error}")))?;
    }
    let mut image = Vec::new();
    file.take(MAX_IMAGE_LEN + 1)
        .read_to_end(&mut image)
        .map_err(bad)?;
    check_image_len(image.len() as u64).map_err(|error| BadInput(format!("{name}: {error}")))?;
    Ok(image)
}

/// What a file is that people take for firmware, by how it begins.
fn known_as(head: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 6] = [
        (b"IGVM", "an IGVM file; only TDVF images are read"),
        (b"\x7fELF", "an ELF file, not a flash image"),
        (b"MZ", "an EFI program, not a flash image"),
        (
            b"QFI\xfb",
            "a qcow2 image; convert it with `qemu-img convert -O raw`",
        ),
        (b"\xfd7zXZ", "compressed with xz"),
        (b"\x1f\x8b", "compressed with gzip"),
    ];
    let kind = KINDS.iter().find(|(magic, _)| head.starts_with(magic));
    kind.map(|(_, what)| *what)
}
