//! What steps print reaches the user: all of it, in order, and harmless to the terminal.

use crate::support::*;

/// Stays below the 200 KiB that an engine takes from a step in a second.
const PRINTS: &str = r"
import sys
out = sys.stdout.buffer
out.write(b'\x1b[31mred\x1b[0m \x07bell \x1b]0;title\x07done\n')
out.write(b'latin \xe9 and zero \x00 end\n')
out.write(b'progress 1%\rprogress 50%\rprogress 100%\n')
out.write(b'long ' + b'x' * 70_000 + b' tail\n')
out.write('Grüße ☕\n'.encode())
out.flush()
for n in range(4_000):
    out.write(b'line %d\n' % n)
out.write(b'no newline at the end')
out.flush()
";

#[test]
fn odd_output_is_shown_whole_in_order_and_without_control_sequences() {
    let farm = small_farm();
    let dockerfile =
        format!("FROM {BASE}\nCOPY prints.py /\nRUN : {}; python3 /prints.py\nRUN true\n", nonce());
    let context = Context::new(&dockerfile).file("prints.py", PRINTS);
    let stdout = submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    let lines: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("linux/amd64 | ")).collect();
    assert!(!stdout.contains(['\x1b', '\x07', '\0', '\r']), "control characters get through");
    says(&stdout, &["| red", "done", "Grüße ☕", "progress 100%", "| no newline at the end", "xxx tail"]);
    let numbered: Vec<&&str> = lines.iter().filter(|line| line.starts_with("line ")).collect();
    let expected: Vec<String> = (0..4_000).map(|n| format!("line {n}")).collect();
    assert_eq!(numbered.len(), expected.len());
    assert!(numbered.iter().zip(&expected).all(|(is, expected)| **is == expected), "lines are out of order");
    // Later it is the same.
    let logs = farm.cli(&["logs", &build_id(&stdout)]).ok();
    let later: Vec<&str> = logs.lines().filter_map(|line| line.strip_prefix("linux/amd64 | ")).collect();
    assert_eq!(later, lines);
}

#[test]
fn the_same_mistake_on_every_platform_is_told_once_and_a_killed_step_is_tried_once_more() {
    let farm = small_farm();
    let dockerfile = format!("FROM {BASE}\nRUN echo {}; sh -c 'kill -9 $$'\n", nonce());
    let result = submit(&farm, &Context::new(&dockerfile), &["--platform", "linux/amd64"]);
    assert_eq!(result.status, 1, "{result:?}");
    says(&result.stdout, &["exit code 137", "killed", "Dockerfile:2", "it will run again"]);
    let record = show(&farm, &build_id(&result.stdout));
    assert_eq!(
        (&record["failure"]["cause"], &record["platforms"][0]["attempts"]),
        (&"killed".into(), &2.into())
    );

    let result = submit(
        &farm,
        &Context::new("FROM scratch\nCOPY missing /\n"),
        &["--platform", "linux/amd64,linux/arm64"],
    );
    assert_eq!(result.stdout.matches("Dockerfile:2").count(), 1, "{}", result.stdout);
}
