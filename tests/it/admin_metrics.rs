//! `/metrics` as those who read it do: parsers of its formats, the dashboard for Grafana and the alert rules that are kept in docs.

use crate::admin::{admin_of, ask, get};
use crate::clients::{python, skip};
use crate::harness::Server;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

const QUEUES: usize = 3000;

/// Names as they may come over the wire: what a label has to escape, what is not UTF-8, what looks like the format.
const HOSTILE: [&[u8]; 7] =
    [b"quote\"inside", b"back\\slash\\n", b"}_1{a=\"b\"}", b"not\xffutf8", b"not\xfeutf8", b"caf\xc3\xa9", b"#_HELP"];

fn root() -> &'static str {
    env!("CARGO_MANIFEST_DIR")
}

#[test]
fn parsers_read_metrics_of_many_and_hostile_queues() {
    let server = Server::start(&["--admin", "127.0.0.1:0", "-N", "-t", "2"]);
    let mut client = server.connect();
    for name in HOSTILE {
        client.send(&[b"set ", name, b" 0 0 1\r\nx\r\n"].concat());
        client.expect(b"STORED\r\n");
    }
    for at in 0..QUEUES - HOSTILE.len() {
        client.send(format!("set many-{at} 0 0 1\r\nx\r\n").as_bytes());
    }
    for _ in 0..QUEUES - HOSTILE.len() {
        client.expect(b"STORED\r\n");
    }
    client.send(b"get many-0\r\ndb_checkpoint\r\n");
    client.expect(b"VALUE many-0 0 1\r\nx\r\nEND\r\nOK\r\n");
    let script = format!("{}/tests/admin/metrics.py", root());
    let url = format!("http://{}/metrics", admin_of(&server));
    let mut command = Command::new(python());
    command.args([&*script, &url, &QUEUES.to_string()]).env("PYTHONDONTWRITEBYTECODE", "1");
    let Ok(output) = command.output() else { return skip("admin_metrics", "there is no Python") };
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(77) {
        return skip("admin_metrics", text.trim());
    }
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().any(|line| line.starts_with("ok ")), "{text}");
}

#[test]
fn metrics_are_openmetrics_for_who_asks() {
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let accepting = |accept: &str| ask(admin_of(&server), "GET", "/metrics", &[("Accept", accept)]);
    let answer = accepting("application/openmetrics-text; version=1.0.0");
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0;"), "{}", answer.head);
    assert!(
        answer.body.ends_with("\n# EOF\n") && answer.body.contains("# TYPE ringq_puts counter\n"),
        "{}",
        answer.body
    );
    let answer = accepting("text/plain, application/openmetrics-text; version=0.0.1");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4;"), "{}", answer.head);
    assert!(!answer.body.contains("# EOF") && !answer.body.contains("# UNIT"), "{}", answer.body);
}

/// Every name of a metric in a text.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ringq_") || word.starts_with("process_")).collect()
}

#[test]
fn what_dashboard_and_alerts_name_is_there() {
    let server = Server::start(&["--admin", "127.0.0.1:0", "-t", "2"]);
    let mut client = server.connect();
    client.send(b"set q 0 0 1\r\nx\r\ndb_checkpoint\r\n");
    client.expect(b"STORED\r\nOK\r\n");
    let metrics = get(admin_of(&server), "/metrics").body;
    let samples: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for (file, least) in [("docs/grafana/ringq.json", 15), ("docs/prometheus/alerts.yml", 8), ("docs/ADMIN.md", 50)] {
        let text = fs::read_to_string(format!("{}/{file}", root())).unwrap_or_else(|error| panic!("{file}: {error}"));
        let named = metric_names(&text);
        assert!(named.len() >= least, "{file} names {} metrics", named.len());
        for name in named {
            let of_histogram = ["_bucket", "_count"].map(|suffix| format!("{name}{suffix}"));
            let is_there = samples.contains(name) || of_histogram.iter().any(|name| samples.contains(&**name));
            assert!(is_there, "{file} names {name}, which /metrics does not have");
        }
    }
    let dashboard = fs::read_to_string(format!("{}/docs/grafana/ringq.json", root())).expect("read the dashboard");
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("the dashboard is JSON");
}

#[test]
fn alerts_are_rules_that_fire_when_they_should() {
    // Where tests/deps.sh puts it.
    let fetched = Path::new(root()).join("target/tools/promtool");
    let promtool = if fetched.exists() { fetched } else { "promtool".into() };
    for arguments in [["check", "rules", "docs/prometheus/alerts.yml"], ["test", "rules", "tests/admin/alerts.yml"]] {
        let mut command = Command::new(&promtool);
        let output = match command.args(arguments).current_dir(root()).stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return skip("alert_rules", "promtool is not installed");
            }
            Err(error) => panic!("{}: {error}", promtool.display()),
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    let [rules, tests] = ["docs/prometheus/alerts.yml", "tests/admin/alerts.yml"]
        .map(|file| fs::read_to_string(Path::new(root()).join(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("- alertname: {alert}\n")), "no test says when {alert} fires");
    }
}
