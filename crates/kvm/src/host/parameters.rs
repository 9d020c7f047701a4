//! Parameters of the modules `kvm` and `kvm_intel` as `/sys/module` shows them: the defaults, as far as the
//! machine's processor has what they ask for.
//!
//! Source: Linux v7.3.4, `module_param` in `virt/kvm`, `arch/x86/kvm`; `vmx_hardware_setup`.

/// Module, parameter, and what its file reads, without the newline.
pub const PARAMETERS: &[(&str, &str, &str)] = &[
    ("kvm", "allow_unsafe_mappings", "N"),
    ("kvm", "eager_page_split", "Y"),
    ("kvm", "enable_pmu", "Y"),
    ("kvm", "enable_virt_at_load", "Y"),
    ("kvm", "enable_vmware_backdoor", "N"),
    ("kvm", "flush_on_reuse", "N"),
    ("kvm", "force_emulation_prefix", "0"),
    ("kvm", "halt_poll_ns", "200000"),
    ("kvm", "halt_poll_ns_grow", "2"),
    ("kvm", "halt_poll_ns_grow_start", "10000"),
    ("kvm", "halt_poll_ns_shrink", "2"),
    ("kvm", "ignore_msrs", "N"),
    ("kvm", "lapic_timer_advance", "Y"),
    ("kvm", "min_timer_period_us", "200"),
    ("kvm", "mitigate_smt_rsb", "N"),
    ("kvm", "mmio_caching", "Y"),
    // The processor has no multi-hit of its instruction TLB.
    ("kvm", "nx_huge_pages", "N"),
    ("kvm", "nx_huge_pages_recovery_period_ms", "0"),
    ("kvm", "nx_huge_pages_recovery_ratio", "60"),
    ("kvm", "pi_inject_timer", "N"),
    ("kvm", "report_ignored_msrs", "Y"),
    ("kvm", "tdp_mmu", "Y"),
    ("kvm", "tsc_tolerance_ppm", "250"),
    ("kvm", "vector_hashing", "Y"),
    ("kvm_intel", "allow_smaller_maxphyaddr", "N"),
    ("kvm_intel", "cet", "Y"),
    ("kvm_intel", "dump_invalid_vmcs", "N"),
    ("kvm_intel", "emulate_invalid_guest_state", "Y"),
    ("kvm_intel", "enable_apicv", "Y"),
    // There is no IOMMU that posts interrupts.
    ("kvm_intel", "enable_device_posted_irqs", "N"),
    ("kvm_intel", "enable_ipiv", "Y"),
    ("kvm_intel", "enable_mediated_pmu", "N"),
    ("kvm_intel", "enable_shadow_vmcs", "Y"),
    ("kvm_intel", "enlightened_vmcs", "N"),
    ("kvm_intel", "ept", "Y"),
    ("kvm_intel", "eptad", "Y"),
    ("kvm_intel", "error_on_inconsistent_vmcs_config", "Y"),
    ("kvm_intel", "fasteoi", "Y"),
    ("kvm_intel", "flexpriority", "Y"),
    ("kvm_intel", "mbec", "Y"),
    ("kvm_intel", "nested", "Y"),
    ("kvm_intel", "ple_gap", "128"),
    ("kvm_intel", "ple_window", "4096"),
    ("kvm_intel", "ple_window_grow", "2"),
    ("kvm_intel", "ple_window_max", "4294967295"),
    ("kvm_intel", "ple_window_shrink", "0"),
    ("kvm_intel", "pml", "Y"),
    ("kvm_intel", "preemption_timer", "Y"),
    ("kvm_intel", "pt_mode", "0"),
    ("kvm_intel", "sgx", "N"),
    ("kvm_intel", "tdx", "Y"),
    ("kvm_intel", "unrestricted_guest", "Y"),
    ("kvm_intel", "vmentry_l1d_flush", "not required"),
    ("kvm_intel", "vnmi", "Y"),
    ("kvm_intel", "vpid", "Y"),
    ("kvm_intel", "warn_on_missed_cc", "N"),
];

/// What a parameter reads; None where the module has no such.
pub fn parameter(module: &str, name: &str) -> Option<&'static str> {
    let found = PARAMETERS
        .iter()
        .find(|(of, known, _)| (*of, *known) == (module, name));
    found.map(|(_, _, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_there_once_in_order_and_found() {
        let key = |p: &(&'static str, &'static str, &'static str)| (p.0, p.1);
        assert!(PARAMETERS.windows(2).all(|two| key(&two[0]) < key(&two[1])));
        assert_eq!(parameter("kvm", "tdp_mmu"), Some("Y"));
        assert_eq!(parameter("kvm_amd", "nested"), None);
    }
}
