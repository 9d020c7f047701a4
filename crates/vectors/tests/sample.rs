//! The sample that lives in the project, replayed.

use std::path::{Path, PathBuf};

use seamlock_vectors::{Options, Position, Progress, replay};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

#[test]
fn every_recorded_call_of_the_sample_is_answered_as_it_was() {
    let report = replay(&[sample()], &Options::default(), &mut ());
    assert!(report.passed(), "\n{report}");
    assert_eq!(report.corpora.len(), 4);
}

#[derive(Default)]
struct Last(Position);

impl Progress for Last {
    fn advance(&mut self, position: Position) {
        assert!(position.sequences >= self.0.sequences && position.bytes >= self.0.bytes);
        self.0 = position;
    }
}

#[test]
fn the_report_does_not_depend_on_the_number_of_threads() {
    let text = |threads: usize| {
        let mut last = Last::default();
        let options = Options {
            threads,
            first: 1000,
            per_sequence: 3,
            ..Options::default()
        };
        let report = replay(&[sample()], &options, &mut last);
        assert_eq!(last.0.bytes, last.0.bytes_total);
        assert_eq!(last.0.sequences, report.sequences().total());
        (report.to_string(), serde_json::to_string(&report).unwrap())
    };
    assert_eq!(text(1), text(5));
}

#[test]
fn one_sequence_can_be_replayed_alone_and_a_family_by_its_prefix() {
    let with = |only: Option<&str>, prefix: Option<&str>| {
        let [only, prefix] = [only, prefix].map(|text| text.map(str::to_owned));
        replay(
            &[sample()],
            &Options {
                only,
                prefix,
                ..Options::default()
            },
            &mut (),
        )
    };
    let all = replay(&[sample()], &Options::default(), &mut ());
    let of = |name| {
        all.corpora
            .iter()
            .find(|corpus| corpus.name == name)
            .unwrap()
    };
    let life = with(None, Some("life-"));
    assert_eq!(life.corpora, [of("lifecycle").clone()]);
    assert_eq!(with(Some("life-0"), None).sequences().total(), 0);
    let errors = with(None, Some("err-")).sequences().total();
    assert_eq!(errors, of("errors").sequences.total());
}
