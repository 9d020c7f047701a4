//! The tables.

use std::process::{Command, ExitCode, Stdio};

use crate::programs::{Program, right, wrong};
use crate::tools::{How, Measured, Tool};

/// Measures everything and prints it.
pub fn print(seconds: u64) -> ExitCode {
    let explore = [
        Tool::Proof,
        Tool::Loom,
        Tool::Loom2,
        Tool::ShuttleDfs,
        Tool::ShuttleRandom,
        Tool::Walks,
    ];
    let find = [
        Tool::Ours,
        Tool::Proof,
        Tool::Loom2,
        Tool::ShuttleRandom,
        Tool::ShuttlePct,
    ];
    let mut complete = table(
        "to explore a program that is right",
        &right(),
        &explore,
        seconds,
    );
    complete &= table(
        "to find the error in a program that is wrong",
        &wrong(),
        &find,
        seconds,
    );
    complete &= rates(seconds);
    if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Executions per second on the largest program that is right: the best of some rounds in which the
/// tools take turns, so that what else the machine does hits all of them.
fn rates(seconds: u64) -> bool {
    let Some(program) = right().pop() else {
        return false;
    };
    let tools = [
        Tool::Proof,
        Tool::Walks,
        Tool::ShuttleRandom,
        Tool::ShuttlePct,
        Tool::ShuttleDfs,
    ];
    let mut best = [0.0_f64; 5];
    for _ in 0..ROUNDS {
        for (rate, &tool) in best.iter_mut().zip(&tools) {
            let Some(measured) = measured(tool, &program, seconds.min(2)) else {
                return false;
            };
            *rate = rate.max(measured.executions as f64 / measured.seconds);
        }
    }
    println!(
        "executions per second, {}: best of {ROUNDS} rounds",
        program.name
    );
    let [proof, walks, others @ ..] = best;
    println!("  {:<23} {proof:>9.0}", tools[0].name());
    println!("  {:<23} {walks:>9.0}", tools[1].name());
    for (rate, tool) in others.iter().zip(&tools[2..]) {
        println!(
            "  {:<23} {rate:>9.0}  our proof is {:.2} times as fast, our walks {:.2} times",
            tool.name(),
            proof / rate,
            walks / rate
        );
    }
    true
}

/// Rounds of the comparison of rates.
const ROUNDS: usize = 5;

fn table(title: &str, programs: &[Program], tools: &[Tool], seconds: u64) -> bool {
    println!("{title}");
    println!(
        "  {:<32} {:>7}  {:<23} {:>11} {:>10} {:>10} {:>7}  ",
        "program", "traces", "tool", "executions", "per second", "CPU time", "memory"
    );
    let mut complete = true;
    for program in programs {
        for (nth, &tool) in tools.iter().enumerate() {
            let (name, traces) = if nth == 0 {
                (program.name, program.traces())
            } else {
                ("", None)
            };
            let traces = traces.map_or_else(String::new, |traces| traces.to_string());
            print!("  {name:<32} {traces:>7}  {:<23} ", tool.name());
            match measured(tool, program, seconds) {
                Some(measured) => println!("{}", row(&measured, seconds)),
                None => {
                    complete = false;
                    println!("the measurement failed");
                }
            }
        }
    }
    println!();
    complete
}

/// A measurement that may have taken so many seconds of the clock.
fn row(measured: &Measured, limit: u64) -> String {
    let Measured {
        how,
        executions,
        seconds,
        memory,
    } = *measured;
    if how == How::Cannot {
        return format!("{:>11} {:>10} {:>10} {:>7}  {how}", "-", "-", "-", "-");
    }
    let rate = executions as f64 / seconds;
    let time = if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    };
    let how = match how {
        How::Cut => format!("cut at {limit} s"),
        how => how.to_string(),
    };
    format!(
        "{executions:>11} {rate:>10.0} {time:>10} {:>4} MB  {how}",
        memory.div_ceil(1024)
    )
}

fn measured(tool: Tool, program: &Program, seconds: u64) -> Option<Measured> {
    let this = std::env::current_exe().ok()?;
    let output = Command::new(this)
        .args(["--one", tool.name(), program.name, &seconds.to_string()])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    // The tools print to the same place; ours is the last line.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .last()?
        .parse()
        .ok()
}
