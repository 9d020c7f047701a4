//! The sample of recorded sequences that lives in the project; `data/README.md` names its source.

/// The compressed files, with their names.
pub const FILES: [(&str, &[u8]); 4] = [
    (
        "contention.jsonl.xz",
        include_bytes!("../data/contention.jsonl.xz"),
    ),
    ("errors.jsonl.xz", include_bytes!("../data/errors.jsonl.xz")),
    (
        "lifecycle.jsonl.xz",
        include_bytes!("../data/lifecycle.jsonl.xz"),
    ),
    ("random.jsonl.xz", include_bytes!("../data/random.jsonl.xz")),
];
