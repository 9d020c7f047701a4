//! The KVM ABI of Linux v7.3.4 on x86.
