//! The sweep: what its cells are, what is found in some of them, and that `sealed` closes it.

use std::collections::BTreeSet;

use seamlock_check::CheckError;
use seamlock_kvm::discipline::by_name;
use seamlock_races::sweep::{Cell, Key, Matrix, OPERATIONS, STATES, Suspects, Swept, cells};

fn check(cell: &str, discipline: &str) -> Swept {
    let cell: Cell = cell.parse().expect("a cell");
    let discipline = by_name(discipline).expect("a discipline");
    cell.check(discipline, 300, 1).expect("a sound check")
}

fn causes(swept: &Swept) -> BTreeSet<String> {
    let all = swept.findings.iter().map(|found| &found.example.violation);
    all.map(|violation| format!("{}: {}", violation.oracle, violation.cause))
        .collect()
}

#[test]
fn every_operation_and_every_state_has_its_own_name_and_a_cell() {
    let names: BTreeSet<&str> = OPERATIONS.iter().flat_map(|o| o.names).collect();
    assert_eq!(names.len(), 3 * OPERATIONS.len());
    let pairs = cells(2);
    for state in STATES {
        assert!(pairs.iter().any(|cell| cell.state.name == state.name));
    }
    for operation in OPERATIONS {
        let has = |cell: &Cell| cell.operations.iter().any(|o| o.name() == operation.name());
        assert!(pairs.iter().any(has), "{}", operation.name());
    }
    let text: BTreeSet<String> = pairs.iter().map(Cell::to_string).collect();
    assert_eq!(text.len(), pairs.len());
    for cell in text.iter().take(200) {
        assert_eq!(cell.parse::<Cell>().expect("a cell").to_string(), *cell);
    }
    assert!("runnable/nothing".parse::<Cell>().is_err());
}

/// What is open in v7.3 by docs/findings.md: its number there, a cell, and a part of a cause that is seen
/// in it.
const OPEN: &[(u32, &str, &str)] = &[
    (
        2,
        "memory-partly/finalize+punch",
        "TDX_TLB_TRACKING_NOT_DONE",
    ),
    (
        1,
        "memory-partly/finalize+punch",
        "TDH.MEM.RANGE.BLOCK failed",
    ),
    (1, "vcpus-partly/mem+punch-other", "TDH.MR.EXTEND failed"),
    (3, "vcpus-partly/init-vcpu+migrate", "TDX_VCPU_ASSOCIATED"),
    (4, "vcpus-partly/init-vcpu+offline0", "TDH.VP.INIT failed"),
    (
        4,
        "before-finalize/finalize+offline1",
        "a TD does not give everything back",
    ),
    (5, "initialized/capabilities+finalize", "TDX_NO_VCPUS"),
    (10, "vcpus-partly/finalize+prefault1", "TDH.VP.WR failed"),
    (11, "runnable/punch+poison", "threads wait"),
];

#[test]
fn what_is_open_in_v7_3_is_named_and_proved_closed_in_sealed() {
    let suspects = Suspects::of(by_name("v7.3").expect("a discipline"));
    for (number, cell, cause) in OPEN {
        let mut found = check(cell, "v7.3").findings;
        suspects.name(&cell.parse().expect("a cell"), &mut found, 300, 1);
        let seen = found
            .iter()
            .find(|found| found.example.violation.cause.contains(cause));
        let seen = seen.unwrap_or_else(|| panic!("{cell}: {found:?}"));
        let named: Vec<u32> = seen.faults.iter().map(|fault| fault.number).collect();
        assert_eq!(named, [*number], "{cell}: {cause}");
        let sealed = check(cell, "sealed");
        assert!(sealed.findings.is_empty(), "{cell}: {:?}", causes(&sealed));
        assert!(sealed.explored.is_ok(), "{cell}: {:?}", sealed.explored);
    }
}

/// Each of these once saw something that no operation announced, and the checker planned what could not
/// be done: the list of vCPUs of a CPU that goes offline, which the kernel looks at with interrupts off;
/// the number of a new descriptor, which depended on what was closed before.
#[test]
fn what_a_thread_sees_is_announced() {
    for cell in [
        "before-init/kill+offline0+other-init-vcpu",
        "initialized/kill+offline0+other-init-vcpu",
        "runnable/create-gmem+prefault0+close-vcpu",
        "vcpus-partly/create-gmem+close-vcpu+close-vcpu",
        "initialized/create-dup+close-gmem+close-gmem",
    ] {
        let sealed = check(cell, "sealed");
        assert!(sealed.findings.is_empty(), "{cell}: {:?}", causes(&sealed));
        assert!(sealed.explored.is_ok(), "{cell}: {:?}", sealed.explored);
    }
}

#[test]
fn a_matrix_keeps_the_worst_of_a_pair_and_each_cause_once() {
    let mut matrix = Matrix::default();
    for name in [
        "memory-partly/finalize+punch",
        "before-finalize/finalize+punch",
    ] {
        let cell: Cell = name.parse().expect("a cell");
        matrix.add(&cell, check(name, "v7.3"));
    }
    let clean: Cell = "runnable/finalize+punch".parse().expect("a cell");
    matrix.add(&clean, check("runnable/finalize+punch", "v7.3"));
    let place = |name| {
        OPERATIONS
            .iter()
            .position(|o| o.name() == name)
            .expect("a row")
    };
    let letter = matrix.letter(place("punch"), place("finalize"));
    assert_eq!(letter.map(|letter| letter.symbol()), Some('X'));
    assert_eq!((matrix.all.refuted, matrix.exit_code()), (2, 1));
    assert!(matrix.causes.values().all(|cause| !cause.cells.is_empty()));
}

#[test]
fn what_one_operation_does_alone_is_shown_alone() {
    let mut matrix = Matrix::default();
    let cell: Cell = "initialized/capabilities+finalize".parse().expect("a cell");
    matrix.add(&cell, check("initialized/capabilities+finalize", "v7.3"));
    let discipline = by_name("v7.3").expect("a discipline");
    let (key, mut cause) = matrix.causes.pop_first().expect("a finding");
    let suspects = Suspects::of(discipline);
    cause
        .shrink(&key, &suspects, 300, 1)
        .expect("a sound check");
    assert!(cause.is_solo());
    assert_eq!(cause.cell.to_string(), "initialized/finalize");
    let staged = cause.cell.stage(discipline).expect("a TD");
    let build = |setup: &mut seamlock_check::Setup| staged.build(setup);
    let again = seamlock_check::replay(&build, &cause.example.schedule, 20_000).expect("a replay");
    assert_eq!((again.diverged, again.violations.len()), (None, 1));
}

#[test]
fn two_faults_with_one_consequence_are_told_apart_and_one_that_nobody_knows_has_a_name_of_its_own()
{
    let name = "memory-partly/mem+punch-other+offline1";
    let cell: Cell = name.parse().expect("a cell");
    let names = |discipline: &str| {
        let mut swept = check(name, discipline);
        let suspects = Suspects::of(by_name(discipline).expect("a discipline"));
        suspects.name(&cell, &mut swept.findings, 300, 1);
        let mut matrix = Matrix::default();
        matrix.add(&cell, swept);
        let extend = |key: &&Key| key.cause.starts_with("TDH.MR.EXTEND failed");
        let found = matrix.causes.keys().filter(extend);
        found.map(|key| matrix.name(key)).collect::<Vec<_>>()
    };
    assert_eq!(names("v7.3"), ["F1", "F4"]);
    let mut matrix = Matrix::default();
    matrix.add(&cell, check(name, "v7.3"));
    let first = matrix.causes.keys().next().expect("a finding");
    assert_eq!(matrix.name(first), "U1", "nobody was asked for its name");
}

#[test]
fn a_cell_has_room_for_so_many_operations() {
    for (cell, why) in [
        ("runnable/run0+run0+run0+run0", "3 times at most"),
        (
            "runnable/run0+punch:run0=8,punch=8",
            "12870 orders, one after the other",
        ),
    ] {
        let refused = cell.parse::<Cell>().expect_err("too many");
        assert!(refused.contains(why), "{refused}");
    }
    assert!("runnable/run0+run0+run0".parse::<Cell>().is_ok());
}

#[test]
fn a_cell_that_the_checker_fails_on_is_told_apart_from_one_that_is_not_exhausted() {
    let cell: Cell = "initialized/create+create".parse().expect("a cell");
    let mut matrix = Matrix::default();
    matrix.skip(&cell);
    assert_eq!(matrix.exit_code(), 3);
    matrix.fail(&cell, CheckError::Engine("on purpose".into()));
    assert_eq!(matrix.exit_code(), 4);
}
