//! QEMU as people start it.

use super::case::{Case, Until};

/// Firmware images with TDX metadata, of Debian's packages.
pub const IMAGES: [(&str, &str); 2] = [
    ("ovmf-inteltdx", "/usr/share/ovmf/OVMF.inteltdx.ms.fd"),
    ("ovmf", "/usr/share/ovmf/OVMF.fd"),
];

/// QEMU with a TD, as its documentation says, and with nothing that it does not need.
pub fn command(firmware: &str, memory: u64, vcpus: usize) -> Vec<String> {
    let machine = "q35,confidential-guest-support=tdx0,kernel-irqchip=split";
    let (memory, vcpus) = (format!("{memory}M"), vcpus.to_string());
    let words = [
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-machine",
        machine,
        "-object",
        "tdx-guest,id=tdx0",
        "-cpu",
        "host",
        "-smp",
        &vcpus,
        "-m",
        &memory,
        "-bios",
        firmware,
        "-nodefaults",
        "-nographic",
    ];
    words.map(str::to_owned).to_vec()
}

/// All launches with QEMU.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (package, firmware) in IMAGES {
        for vcpus in [1, 4] {
            for memory in [512, 4096] {
                cases.push(launch(package, firmware, memory, vcpus));
            }
        }
    }
    cases.push(reset());
    cases
}

pub fn launch(package: &str, firmware: &'static str, memory: u64, vcpus: usize) -> Case {
    let mut command = command(firmware, memory, vcpus);
    command.push("-no-reboot".to_owned());
    Case {
        name: format!("QEMU, {package}, {vcpus} vCPUs, {memory} MiB"),
        client: "qemu-system-x86",
        command,
        files: Vec::new(),
        firmware,
        memory,
        vcpus,
        tds: 1,
        script: "shutdown\n",
        until: Until::GuestEnds,
        warnings: 0,
        options: Vec::new(),
        checks: Vec::new(),
        does: "",
    }
}

/// A reset: QEMU closes the VM and builds another one.
fn reset() -> Case {
    let (package, firmware) = IMAGES[0];
    Case {
        name: format!("QEMU, {package}, a reset"),
        command: command(firmware, 512, 2),
        vcpus: 2,
        tds: 2,
        script: "reset\nfatal 0 done\n",
        ..launch(package, firmware, 512, 2)
    }
}
