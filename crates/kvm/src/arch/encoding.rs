//! Request numbers: most architectures put them together as include/uapi/asm-generic/ioctl.h does,
//! MIPS and PowerPC with three bits of direction and "none" as a value of its own.

/// How an architecture puts a request number together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// asm-generic: direction in bits 31:30, size in bits 29:16.
    Generic,
    /// Direction in bits 31:29 (1 none, 2 read, 4 write), size in bits 28:16.
    ThreeDirectionBits,
}

/// No ioctl of KVM's: its type byte is 0.
const NO_REQUEST: u32 = 0;

impl Encoding {
    /// The request number of the generic encoding that means the same; one of nobody's when there is
    /// none.
    pub fn to_generic(self, request: u32) -> u32 {
        let rest = request & 0x1fff_ffff;
        match (self, request >> 29) {
            (Encoding::Generic, _) => request,
            (_, 1) => rest,
            (_, 2) => 2 << 30 | rest,
            (_, 4) => 1 << 30 | rest,
            (_, 6) => 3 << 30 | rest,
            _ => NO_REQUEST,
        }
    }

    /// The architecture's number of a request of the generic encoding.
    pub fn of_generic(self, request: u32) -> u32 {
        let rest = request & 0x1fff_ffff;
        match (self, request >> 30) {
            (Encoding::Generic, _) => request,
            (_, 0) => 1 << 29 | rest,
            (_, 1) => 4 << 29 | rest,
            (_, 2) => 2 << 29 | rest,
            _ => 6 << 29 | rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seamlock_tdx_abi::kvm::{IOCTLS, KVM_INTERRUPT, KVM_RUN};

    #[test]
    fn powerpc_numbers_are_those_of_its_headers() {
        let powerpc = Encoding::ThreeDirectionBits;
        assert_eq!(powerpc.of_generic(KVM_RUN), 0x2000_ae80);
        assert_eq!(powerpc.of_generic(KVM_INTERRUPT), 0x8004_ae86);
    }

    #[test]
    fn every_request_survives_the_way_there_and_back() {
        for info in IOCTLS {
            for encoding in [Encoding::Generic, Encoding::ThreeDirectionBits] {
                let there = encoding.of_generic(info.request);
                assert_eq!(encoding.to_generic(there), info.request, "{}", info.name);
            }
        }
        assert_eq!(Encoding::ThreeDirectionBits.to_generic(0), NO_REQUEST);
    }
}
