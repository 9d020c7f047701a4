//! Assembles TDVF images, sound ones and every kind of broken one.

use crate::metadata::{
    DESCRIPTOR_LEN, FIXED_POINTER_FROM_END, Location, SECTION_LEN, SIGNATURE, Section, VERSION,
};
use crate::table::{ENTRY_OVERHEAD, FOOTER_FROM_END, FOOTER_GUID, TDX_METADATA_GUID};

/// Builds an image. Nothing is checked: whatever is asked for is written as far as it lies in the
/// image, and [`Self::patch`] has the last word.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    len: usize,
    contents: Vec<(usize, Vec<u8>)>,
    sections: Vec<Section>,
    location: Option<Location>,
    entries: Vec<([u8; 16], Vec<u8>)>,
    descriptor_at: usize,
    signature: [u8; 4],
    version: u32,
    count: Option<u32>,
    length: Option<u32>,
    pointer: Option<u32>,
    patches: Vec<(usize, Vec<u8>)>,
}

impl ImageBuilder {
    /// An image of `len` zero bytes with a GUIDed table; the descriptor is 1 KiB before its end.
    pub fn new(len: usize) -> Self {
        Self {
            len,
            contents: Vec::new(),
            sections: Vec::new(),
            location: Some(Location::GuidTable),
            entries: Vec::new(),
            descriptor_at: len.saturating_sub(0x400),
            signature: SIGNATURE,
            version: VERSION,
            count: None,
            length: None,
            pointer: None,
            patches: Vec::new(),
        }
    }

    /// Writes `bytes` at an offset, below everything else.
    pub fn contents(mut self, offset: usize, bytes: impl Into<Vec<u8>>) -> Self {
        self.contents.push((offset, bytes.into()));
        self
    }

    /// Appends a section.
    pub fn section(mut self, section: Section) -> Self {
        self.sections.push(section);
        self
    }

    /// Changes the section at `index`, if there is one.
    pub fn edit(mut self, index: usize, change: impl FnOnce(&mut Section)) -> Self {
        if let Some(section) = self.sections.get_mut(index) {
            change(section);
        }
        self
    }

    /// Keeps only the sections that `keep` wants.
    pub fn retain(mut self, keep: impl FnMut(&Section) -> bool) -> Self {
        self.sections.retain(keep);
        self
    }

    /// How the metadata can be found; `None` is not at all.
    pub fn location(mut self, location: Option<Location>) -> Self {
        self.location = location;
        self
    }

    /// Puts one more entry, with a GUID in its stored order, behind the others of the table.
    pub fn entry(mut self, guid: [u8; 16], data: impl Into<Vec<u8>>) -> Self {
        self.entries.push((guid, data.into()));
        self
    }

    /// Where the descriptor is written.
    pub fn descriptor_at(mut self, offset: usize) -> Self {
        self.descriptor_at = offset;
        self
    }

    /// The descriptor's signature.
    pub fn signature(mut self, signature: [u8; 4]) -> Self {
        self.signature = signature;
        self
    }

    /// The descriptor's version.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The descriptor's count, instead of the number of sections.
    pub fn count(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// The descriptor's length, instead of the right one.
    pub fn length(mut self, length: u32) -> Self {
        self.length = Some(length);
        self
    }

    /// What the table's entry or the fixed pointer says, instead of where the descriptor is.
    pub fn pointer(mut self, pointer: u32) -> Self {
        self.pointer = Some(pointer);
        self
    }

    /// Overwrites bytes of the finished image.
    pub fn patch(mut self, offset: usize, bytes: impl Into<Vec<u8>>) -> Self {
        self.patches.push((offset, bytes.into()));
        self
    }

    /// The image.
    pub fn build(&self) -> Vec<u8> {
        let mut image = vec![0; self.len];
        for (offset, bytes) in &self.contents {
            write(&mut image, *offset, bytes);
        }
        write(&mut image, self.descriptor_at, &self.descriptor());
        match self.location {
            Some(Location::GuidTable) => {
                let table = self.table();
                if let Some(at) = self.len.checked_sub(FOOTER_FROM_END + table.len()) {
                    write(&mut image, at, &table);
                }
            }
            Some(Location::FixedPointer) => {
                let pointer = self.pointer.unwrap_or(self.descriptor_at as u32);
                let at = self.len.saturating_sub(FIXED_POINTER_FROM_END);
                write(&mut image, at, &pointer.to_le_bytes());
            }
            None => {}
        }
        for (offset, bytes) in &self.patches {
            write(&mut image, *offset, bytes);
        }
        image
    }

    fn descriptor(&self) -> Vec<u8> {
        let sections = self.sections.len() as u32;
        let length = DESCRIPTOR_LEN as u32 + sections * SECTION_LEN as u32;
        let mut out = self.signature.to_vec();
        for field in [
            self.length.unwrap_or(length),
            self.version,
            self.count.unwrap_or(sections),
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        self.sections
            .iter()
            .for_each(|s| out.extend_from_slice(&s.to_bytes()));
        out
    }

    /// The TDX metadata entry, the other entries, the footer.
    fn table(&self) -> Vec<u8> {
        let from_end = self.len.saturating_sub(self.descriptor_at) as u32;
        let mut out = Vec::new();
        append(
            &mut out,
            &self.pointer.unwrap_or(from_end).to_le_bytes(),
            TDX_METADATA_GUID,
        );
        self.entries
            .iter()
            .for_each(|(guid, data)| append(&mut out, data, *guid));
        let table_len = (out.len() + ENTRY_OVERHEAD) as u16;
        out.extend_from_slice(&table_len.to_le_bytes());
        out.extend_from_slice(&FOOTER_GUID);
        out
    }
}

/// Appends a table entry.
fn append(table: &mut Vec<u8>, data: &[u8], guid: [u8; 16]) {
    table.extend_from_slice(data);
    table.extend_from_slice(&((data.len() + ENTRY_OVERHEAD) as u16).to_le_bytes());
    table.extend_from_slice(&guid);
}

/// Writes as much of `bytes` as lies inside of `image`.
fn write(image: &mut [u8], offset: usize, bytes: &[u8]) {
    let room = image.get_mut(offset..).unwrap_or_default();
    room.iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
}
