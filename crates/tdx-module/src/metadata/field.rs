//! One row of a field table: which ids it covers, and who may do what with it.

use seamlock_tdx_abi::field::FieldId;

/// Every bit of an element, whatever its size.
pub(super) const ALL: u64 = u64::MAX;

/// Who accesses metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accessor {
    /// The host. A TD with ATTRIBUTES.DEBUG shows it more.
    Host {
        /// Whether the TD is a debug TD.
        debug: bool,
    },
    /// The TD itself.
    Guest,
}

/// Bits that may be read, and bits that may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Readable bits; none means that the field can't be read.
    pub read: u64,
    /// Writable bits.
    pub write: u64,
}

/// What an address in a field means, which is checked when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Not an address.
    Value,
    /// An address that the host can't choose.
    Address,
    /// A host physical address with a shared HKID.
    SharedHpa,
    /// A private guest physical address.
    PrivateGpa,
}

/// A field or an array of fields with consecutive ids.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in the specification.
    pub name: &'static str,
    /// Id of the first element.
    pub id: FieldId,
    /// Fields in the array.
    pub fields: u16,
    /// Elements of each field.
    pub elements: u16,
    /// What the host may do with a production TD.
    pub production: Rights,
    /// What the host may do with a debug TD.
    pub debug: Rights,
    /// What the TD may do.
    pub guest: Rights,
    pub(crate) content: Content,
}

pub(super) const fn field(name: &'static str, id: u64) -> Field {
    let none = Rights { read: 0, write: 0 };
    Field {
        name,
        id: FieldId(id),
        fields: 1,
        elements: 1,
        production: none,
        debug: none,
        guest: none,
        content: Content::Value,
    }
}

impl Field {
    pub(super) const fn array(mut self, fields: u16, elements: u16) -> Field {
        self.fields = fields;
        self.elements = elements;
        self
    }

    const fn rights(&self, read: u64, write: u64) -> Rights {
        let size = self.size_mask();
        Rights {
            read: read & size,
            write: write & size,
        }
    }

    pub(super) const fn prod(mut self, read: u64, write: u64) -> Field {
        self.production = self.rights(read, write);
        self
    }

    pub(super) const fn debug(mut self, read: u64, write: u64) -> Field {
        self.debug = self.rights(read, write);
        self
    }

    pub(super) const fn host(self, read: u64, write: u64) -> Field {
        self.prod(read, write).debug(read, write)
    }

    pub(super) const fn guest(mut self, read: u64, write: u64) -> Field {
        self.guest = self.rights(read, write);
        self
    }

    pub(super) const fn address(mut self) -> Field {
        self.content = Content::Address;
        self
    }

    pub(super) const fn shared_hpa(mut self) -> Field {
        self.content = Content::SharedHpa;
        self
    }

    pub(super) const fn private_gpa(mut self) -> Field {
        self.content = Content::PrivateGpa;
        self
    }

    /// Every bit of one element.
    pub const fn size_mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.id.element_bytes() as u32)
    }

    /// How far the codes of two elements are apart.
    pub(super) const fn stride(&self) -> u32 {
        self.id.inc() as u32 + 1
    }

    /// Class and code in one number; rows are sorted by it.
    #[inline]
    pub(super) const fn key(&self) -> u32 {
        key(self.id)
    }

    /// Number of codes that the row covers.
    #[inline]
    pub(super) const fn span(&self) -> u32 {
        self.fields as u32 * self.elements as u32 * self.stride()
    }

    /// What an accessor may do.
    #[inline]
    pub(crate) fn allows(&self, accessor: Accessor) -> Rights {
        match accessor {
            Accessor::Host { debug: false } => self.production,
            Accessor::Host { debug: true } => self.debug,
            Accessor::Guest => self.guest,
        }
    }
}

/// Class and code of an id in one number.
#[inline]
pub(super) const fn key(id: FieldId) -> u32 {
    (id.class() as u32) << 24 | id.code()
}
