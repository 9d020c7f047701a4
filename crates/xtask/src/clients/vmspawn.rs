//! systemd-vmspawn, which starts QEMU stopped and talks to it before it lets it run.

use super::case::{Case, Until};
use super::qemu::IMAGES;

/// Its launch. It ends after KVM_TDX_FINALIZE_VM, because without systemd as process 1 it finds no unit
/// of its own.
pub fn cases() -> Vec<Case> {
    let (package, firmware) = IMAGES[0];
    let description = "/usr/share/qemu/firmware/60-edk2-x86_64-inteltdx.json";
    let spawn = format!(
        "truncate -s 64M /tmp/disk.raw; chmod 700 /tmp/run; XDG_RUNTIME_DIR=/tmp/run \
         exec dbus-run-session systemd-vmspawn --user --register=no --keep-unit --coco=tdx \
         --firmware={description} --secure-boot=yes --tpm=no --image=/tmp/disk.raw"
    );
    vec![Case {
        name: format!("systemd-vmspawn, {package}, 1 vCPU, its default memory"),
        client: "systemd-container",
        command: ["sh", "-c", &spawn].map(str::to_owned).to_vec(),
        files: Vec::new(),
        firmware,
        memory: 2048,
        vcpus: 1,
        tds: 1,
        script: "",
        until: Until::VmmGivesUp,
        warnings: 0,
        options: Vec::new(),
        checks: Vec::new(),
        does: "",
    }]
}
