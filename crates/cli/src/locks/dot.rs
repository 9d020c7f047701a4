//! For Graphviz.

use std::fmt::Write;

use seamlock_kvm::lockdep::Rule;
use seamlock_kvm::lockdep::survey::Survey;
use seamlock_kvm::locks::{CLASSES, Kind, ORDER};

/// The declared order; what was seen against it in red.
pub(super) fn graph(survey: &Survey) -> String {
    let mut out =
        String::from("digraph locks {\n  rankdir = TB;\n  node [fontname = monospace];\n");
    for class in CLASSES.iter().filter(|class| class.kind.is_ordered()) {
        let shape = match class.kind {
            Kind::Mutex | Kind::Rwsem => "box",
            Kind::Spin => "ellipse",
            _ => "plaintext",
        };
        let tip = format!("{}: {}", class.kernel, class.guards);
        let name = class.class.name();
        let _ = writeln!(out, "  \"{name}\" [shape = {shape}, tooltip = \"{tip}\"];");
    }
    for edge in ORDER {
        let (outer, inner) = (edge.outer.name(), edge.inner.name());
        let source = edge.source;
        let _ = writeln!(
            out,
            "  \"{outer}\" -> \"{inner}\" [tooltip = \"{source}\"];"
        );
    }
    for breach in survey.breaches() {
        if !matches!(
            breach.rule,
            Rule::Inversion | Rule::Undeclared | Rule::Recursion
        ) {
            continue;
        }
        let (outer, inner) = (breach.against.class.class, breach.acquired.class.class);
        let site = breach.acquired.place();
        let _ = writeln!(
            out,
            "  \"{}\" -> \"{}\" [color = red, fontcolor = red, constraint = false, \
             label = \"{site}\"];",
            outer.name(),
            inner.name()
        );
    }
    out + "}\n"
}
