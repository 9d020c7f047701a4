//! `seamlock bench ioctl` measures every call; how fast is not asserted.

use std::process::Command;

#[test]
fn every_call_is_measured_in_both_ways_beside_a_system_call() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seamlock"));
    let output = command
        .args(["bench", "ioctl", "--rounds", "1", "--json"])
        .output()
        .expect("seamlock starts");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object");
    let met = report["met"].as_bool();
    assert_eq!(met, Some(output.status.code() == Some(0)));
    let calls = report["calls"].as_array().expect("a list");
    assert_eq!(calls.len(), 6);
    for call in calls.iter().chain([&report["getppid_ns"]]) {
        for way in ["dispatch_ns", "worn_ns"] {
            assert!(call[way].as_f64().is_some_and(|ns| ns > 0.0), "{call}");
        }
    }
}
