//! libvirt, which probes QEMU with VMs that are no TDs, and gives it an environment of its own.

use super::case::{Case, Until};
use super::qemu::IMAGES;

/// libvirt without its daemon's surroundings.
const SETTINGS: &str = r#"stdio_handler = "file"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
"#;

fn domain(firmware: &str, vcpus: usize, memory: u64) -> String {
    format!(
        "<domain type='kvm'>
  <name>td</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='rom' stateless='yes'>{firmware}</loader>
  </os>
  <features><acpi/><apic/><ioapic driver='qemu'/></features>
  <cpu mode='host-passthrough'/>
  <launchSecurity type='tdx'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='none'/>
  </devices>
</domain>
"
    )
}

/// Its launch. `virt-qemu-run` stays until it is told to end.
pub fn cases() -> Vec<Case> {
    let (package, firmware) = IMAGES[0];
    let setup = "mkdir -p /tmp/libvirt/etc; cp /tmp/qemu.conf /tmp/libvirt/etc";
    let run = format!("{setup}; exec virt-qemu-run -r /tmp/libvirt /tmp/td.xml");
    vec![Case {
        name: format!("libvirt, {package}, 2 vCPUs, 512 MiB"),
        client: "libvirt-daemon-driver-qemu",
        command: ["sh", "-c", &run].map(str::to_owned).to_vec(),
        files: vec![
            ("qemu.conf", SETTINGS.to_owned()),
            ("td.xml", domain(firmware, 2, 512)),
        ],
        firmware,
        memory: 512,
        vcpus: 2,
        tds: 1,
        script: "",
        until: Until::AllRan,
        warnings: 0,
        options: Vec::new(),
        checks: Vec::new(),
        does: "",
    }]
}
