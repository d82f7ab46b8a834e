//! Rules for tests: they check something, at once, and the same thing whenever they run.
//!
//! In: the tokens of tests (the test package and the unit tests of every crate). Out: findings. It does not know what
//! a test is about.

use crate::tokens::{end_of_group, find};
use crate::tree::{Finding, Source, check_rule, check_sources};

/// The one place that may wait for time to pass.
const HOLD: &str = "tests/src/hold.rs";

const BANNED: [(&str, &str); 7] = [
    ("# [ should_panic", "it passes for any panic; assert on the error that is returned"),
    ("sleep (", "wait for what should happen, or use the kit's `hold`"),
    ("sleep_until (", "wait for what should happen, or use the kit's `hold`"),
    ("park_timeout (", "wait for what should happen, or use the kit's `hold`"),
    ("SystemTime", "a test that reads the clock is another test every day; hand the time in"),
    (". elapsed ( )", "a test never judges by the clock; measure in `statehouse bench`, bound a wait with a deadline"),
    ("Utc : : now", "a test that reads the clock is another test every day; hand the time in"),
];

#[test]
fn tests_neither_sleep_nor_read_the_clock_nor_expect_any_panic() {
    check_sources(banned);
    check_rule(banned, "tests/it/kill.rs", "fn f() { std::thread::sleep(d); }", "fn f() { hold(d); }");
    let product = "fn f() { tokio::time::sleep(d); }";
    let unit = format!("#[cfg(test)]\nmod tests {{\n{product}\n}}");
    check_rule(banned, "host/node/src/log/writer.rs", &unit, product);
    check_rule(banned, "tests/it/kill.rs", "fn f() { g(begin.elapsed()); }", "fn f() { g(Instant::now() + bound); }");
    check_rule(banned, "host/node/src/log/tests.rs", "#[should_panic]\nfn f() {}", "fn f() {}");
}

#[test]
fn no_statement_is_a_bare_matches() {
    check_sources(bare_matches);
    let good = "fn f() -> bool { let a = matches!(x, 1); assert!(matches!(x, 1)); matches!(x, 2) }";
    check_rule(bare_matches, "host/node/src/log/frame.rs", "fn f() { g(); matches!(x, Some(1)); }", good);
}

fn banned(source: &Source) -> Vec<Finding> {
    if source.path == HOLD || source.path.contains("/benches/") {
        return Vec::new();
    }
    let tokens = source.test_tokens();
    let found = BANNED.iter().flat_map(|(sequence, advice)| {
        let word = sequence.replace(' ', "");
        find(&tokens, sequence).into_iter().map(move |token| (token.line, format!("`{word}` in a test; {advice}")))
    });
    found.map(|(line, advice)| source.finding(line, advice)).collect()
}

fn bare_matches(source: &Source) -> Vec<Finding> {
    let tokens = &source.tokens;
    let mut findings = Vec::new();
    for at in 1..tokens.len().saturating_sub(3) {
        let begins_statement = [";", "{", "}"].contains(&tokens[at - 1].text.as_str());
        if !begins_statement || tokens[at].text != "matches" || tokens[at + 1].text != "!" {
            continue;
        }
        let behind = end_of_group(tokens, at + 2);
        if tokens.get(behind).is_some_and(|token| token.text == ";") {
            let advice = "a bare `matches!(…);` checks nothing; put it into `assert!`";
            findings.push(source.finding(tokens[at].line, advice));
        }
    }
    findings
}
