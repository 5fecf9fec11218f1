//! Tests of the transcript parser and runner: above all that a run fails for every way a server can be wrong.

use super::*;

/// A server in memory that answers known requests, whatever the pieces they arrive in.
struct Scripted {
    /// Request, reply, and whether the server closes after it.
    script: Vec<(&'static str, &'static str, bool)>,
    conns: BTreeMap<String, Conn>,
    /// What the runner did besides receiving.
    events: Vec<String>,
    /// The size of each send, in order.
    sends: Vec<usize>,
}

#[derive(Default)]
struct Conn {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    closed: bool,
}

impl Scripted {
    fn new(script: &[(&'static str, &'static str, bool)]) -> Scripted {
        let mut script = script.to_vec();
        script.push(("version\r\n", "VERSION 1.2.3\r\n", false));
        Scripted { script, conns: BTreeMap::new(), events: Vec::new(), sends: Vec::new() }
    }

    fn conn(&mut self, name: &str) -> &mut Conn {
        self.conns.entry(name.to_string()).or_default()
    }
}

impl Peer for Scripted {
    fn send(&mut self, conn: &str, bytes: &[u8]) {
        self.events.push(format!("send {conn}"));
        self.sends.push(bytes.len());
        let script = self.script.clone();
        let conn = self.conn(conn);
        if conn.closed {
            return;
        }
        conn.incoming.extend(bytes);
        while let Some((request, reply, closes)) =
            script.iter().find(|(request, ..)| conn.incoming.starts_with(request.as_bytes()))
        {
            conn.incoming.drain(..request.len());
            conn.outgoing.extend(reply.as_bytes());
            conn.closed |= closes;
        }
    }

    fn receive(&mut self, conn: &str, _at_least: usize) -> Vec<u8> {
        std::mem::take(&mut self.conn(conn).outgoing)
    }

    fn closed(&mut self, conn: &str) -> bool {
        self.conn(conn).closed
    }

    fn close(&mut self, conn: &str) {
        self.events.push(format!("close {conn}"));
    }

    fn half_close(&mut self, conn: &str) {
        self.events.push(format!("half close {conn}"));
        self.conn(conn).closed = true;
    }

    fn advance(&mut self, ms: u64) {
        self.events.push(format!("advance {ms}"));
    }

    fn settle(&mut self) {
        self.events.push("settle".to_string());
    }
}

const GET: (&str, &str, bool) = ("get q\r\n", "VALUE q 0 1\r\nx\r\nEND\r\n", false);
const QUIT: (&str, &str, bool) = ("quit\r\n", "", true);

fn parse(text: &str) -> Result<Transcript, String> {
    Transcript::parse("t.txt", 1, text)
}

fn play_on(peer: &mut Scripted, text: &str, chunking: Chunking) -> Result<(), String> {
    run(&parse(text).expect("the test's transcript parses"), peer, chunking)
}

/// Plays whole and in single bytes, which must agree.
fn play(script: &[(&'static str, &'static str, bool)], text: &str) -> Result<(), String> {
    let whole = play_on(&mut Scripted::new(script), text, Chunking::Whole);
    let single = play_on(&mut Scripted::new(script), text, Chunking::SingleBytes);
    assert_eq!(whole, single);
    whole
}

#[track_caller]
fn assert_fails(result: Result<(), String>, fragments: &[&str]) {
    let error = result.expect_err("this run must fail");
    for fragment in fragments {
        assert!(error.contains(fragment), "{fragment:?} is not in the error {error:?}");
    }
}

fn payload(text: &str) -> Vec<u8> {
    parse_exact(text).unwrap()
}

// Running.

#[test]
fn a_dialogue_that_is_exact_passes() {
    play(&[GET], "> get q\\r\\n\n< VALUE q 0 1\\r\\n\n< x\\r\\nEND\\r\\n\n.\n").unwrap();
}

#[test]
fn a_wrong_byte_fails_and_the_error_says_where() {
    let result = play(&[GET], "# one\n> get q\\r\\n\n< VALUE q 0 1\\r\\ny\\r\\nEND\\r\\n\n");
    assert_fails(
        result,
        &["t.txt:3:", "connection A", "expected VALUE q 0 1\\r\\ny\\r\\n", "got      VALUE q 0 1\\r\\nx\\r\\n"],
    );
}

#[test]
fn a_missing_byte_fails() {
    let result = play(&[GET], "> get q\\r\\n\n< VALUE q 0 1\\r\\nx\\r\\nEND\\r\\n!\n");
    assert_fails(result, &["t.txt:2:", "then nothing more"]);
}

#[test]
fn no_reply_at_all_fails() {
    assert_fails(play(&[QUIT], "> quit\\r\\n\n< OK\\r\\n\n"), &["t.txt:2:", "got      nothing"]);
}

#[test]
fn an_extra_byte_fails_after_the_last_step() {
    let result = play(&[GET], "> get q\\r\\n\n< VALUE q 0 1\\r\\nx\\r\\nEND\\r\n");
    assert_fails(result, &["after the last step", "expected VERSION {version}\\r\\n", "got      \\nVERSION 1.2.3"]);
}

#[test]
fn an_extra_byte_fails_where_quiet_is_asked_for() {
    assert_fails(
        play(&[GET], "> get q\\r\\n\n.\n< VALUE q 0 1\\r\\nx\\r\\nEND\\r\\n\n"),
        &["t.txt:2:", "expected nothing, got VALUE"],
    );
}

#[test]
fn an_extra_byte_after_the_version_fails() {
    let script = [("go\r\n", "OK\r\n", false), ("version\r\n", "VERSION 1.0.0\r\nEND\r\n", false)];
    assert_fails(play(&script, "> go\\r\\n\n< OK\\r\\n\n"), &["after the last step", "expected nothing, got END"]);
}

#[test]
fn an_extra_reply_on_another_connection_fails() {
    let result = play(&[GET], "@ A\n> get q\\r\\n\n@ B\n> version\\r\\n\n< VERSION 1.2.3\\r\\n\n");
    assert_fails(result, &["connection A, after the last step"]);
}

#[test]
fn a_close_passes() {
    play(&[GET, QUIT], "> get q\\r\\nquit\\r\\n\n< VALUE q 0 1\\r\\nx\\r\\nEND\\r\\n\n$\n").unwrap();
}

#[test]
fn a_missing_close_fails() {
    assert_fails(play(&[GET], "> quit\\r\\n\n$\n"), &["t.txt:2:", "expected the server to close"]);
}

#[test]
fn bytes_before_the_close_fail() {
    assert_fails(play(&[GET, QUIT], "> get q\\r\\nquit\\r\\n\n$\n"), &["t.txt:2:", "expected nothing, got VALUE"]);
}

#[test]
fn a_close_nobody_expected_fails() {
    assert_fails(play(&[QUIT], "> quit\\r\\n\n"), &["after the last step", "got      nothing"]);
}

#[test]
fn a_half_closed_connection_must_be_closed_by_the_server() {
    play(&[], "> version\\r\\n\n< VERSION 1.2.3\\r\\n\n^w\n").unwrap();
    play(&[], "> version\\r\\n\n^w\n< VERSION 1.2.3\\r\\n\n$\n").unwrap();
    assert_fails(play(&[], "> version\\r\\n\n^w\n$\n"), &["expected nothing, got VERSION"]);

    struct NeverCloses(Scripted);
    impl Peer for NeverCloses {
        fn send(&mut self, conn: &str, bytes: &[u8]) {
            self.0.send(conn, bytes);
        }
        fn receive(&mut self, conn: &str, at_least: usize) -> Vec<u8> {
            self.0.receive(conn, at_least)
        }
        fn closed(&mut self, _conn: &str) -> bool {
            false
        }
        fn close(&mut self, _conn: &str) {}
        fn half_close(&mut self, _conn: &str) {}
        fn advance(&mut self, _ms: u64) {}
        fn settle(&mut self) {}
    }
    let transcript = parse("> x\n^w\n").unwrap();
    let result = run(&transcript, &mut NeverCloses(Scripted::new(&[])), Chunking::Whole);
    assert_fails(result, &["expected the server to close"]);
}

#[test]
fn time_and_the_clients_closes_reach_the_peer() {
    let mut peer = Scripted::new(&[]);
    play_on(&mut peer, "> x\n+500ms\n^w\n$\n@ B\n> y\n+ 20ms\n^\n", Chunking::Whole).unwrap();
    let of_a = ["send A", "settle", "advance 500", "half close A"];
    assert_eq!(peer.events, [&of_a[..], &["settle", "send B", "settle", "advance 20", "close B"]].concat());
}

/// Of one connection the server sees everything in its order anyway, and what nobody acts upon may be on its way still.
#[test]
fn the_server_is_waited_for_where_the_order_could_be_lost() {
    let script = "> x\n> x\n< 11\n@ B\n> y\n< 2\n.\n^\n@ A\n> x\n+1ms\n+1ms\n> x\n< 11\n^\n";
    let mut peer = Scripted::new(&[("x", "1", false), ("y", "2", false)]);
    play_on(&mut peer, script, Chunking::Whole).unwrap();
    let settled =
        ["send A", "send A", "settle", "send B", "settle", "close B", "settle", "send A", "settle", "advance 1"];
    assert_eq!(peer.events, [&settled[..], &["advance 1", "send A", "close A"]].concat());
}

#[test]
fn connections_keep_their_bytes_apart() {
    let script = [("a\r\n", "ONE\r\n", false), ("b\r\n", "TWO\r\n", false)];
    play(&script, "> a\\r\\n\n@ B\n> b\\r\\n\n@ A\n< ONE\\r\\n\n@ B\n< TWO\\r\\n\n").unwrap();
    assert_fails(play(&script, "> a\\r\\n\n@ B\n> b\\r\\n\n< ONE\\r\\n\n"), &["t.txt:4: connection B"]);
}

#[test]
fn single_bytes_cut_every_edge_and_spare_the_middle_of_a_long_write() {
    let mut peer = Scripted::new(&[]);
    play_on(&mut peer, "> {x*10000}\n^\n", Chunking::SingleBytes).unwrap();
    let mut sizes = vec![1; 4096];
    sizes.push(10000 - 2 * 4096);
    sizes.extend([1; 4096]);
    assert_eq!(peer.sends, sizes);

    for size in [1, 4096, 4097, 8192] {
        let mut peer = Scripted::new(&[]);
        play_on(&mut peer, &format!("> {{x*{size}}}\n^\n"), Chunking::SingleBytes).unwrap();
        assert_eq!(peer.sends, vec![1; size]);
    }
}

#[test]
fn wildcards_match_what_they_say_and_nothing_else() {
    let stat =
        |reply: &'static str, pattern: &str| play(&[("s\r\n", reply, false)], &format!("> s\\r\\n\n~ {pattern}\n"));
    stat("STAT pid 17\r\n", "STAT pid {digits}\\r\\n").unwrap();
    stat("STAT u 0.25\r\n", "STAT u {digits}.{digits}\\r\\n").unwrap();
    assert_fails(stat("STAT pid \r\n", "STAT pid {digits}\\r\\n"), &["t.txt:2:", "expected STAT pid {digits}\\r\\n"]);
    assert_fails(stat("STAT pid x\r\n", "STAT pid {digits}\\r\\n"), &["t.txt:2:"]);
    assert_fails(stat("STAT pid -1\r\n", "STAT pid {digits}\\r\\n"), &["t.txt:2:"]);

    stat("STAT a b c\r\n", "STAT a {text}\\r\\n").unwrap();
    assert_fails(stat("STAT a \r\n", "STAT a {text}\\r\\n"), &["t.txt:2:"]);

    stat("VERSION 12.0.3\r\n", "VERSION {version}\\r\\n").unwrap();
    for wrong in ["VERSION 0.2.1\r\n", "VERSION 1.2\r\n", "VERSION 1.2.\r\n", "VERSION 1.2.3.4\r\n", "VERSION x\r\n"] {
        assert_fails(stat(wrong, "VERSION {version}\\r\\n"), &["t.txt:2:"]);
    }

    stat("STAT a 1\r\nSTAT b 2\r\nEND\r\n", "{stats}END\\r\\n").unwrap();
    stat("STAT a 1\r\nSTAT b 2\r\nEND\r\n", "STAT a {digits}\\r\\n{stats}END\\r\\n").unwrap();
    stat("END\r\n", "{stats}END\\r\\n").unwrap();
    for wrong in ["STAT a 1\nEND\r\n", "STAT a 1\r\nSTAT\r\nEND\r\n", "STAT a 1\r\nERROR\r\n", "STAT a 1\r\n"] {
        assert_fails(stat(wrong, "{stats}END\\r\\n"), &["t.txt:2:"]);
    }
}

#[test]
fn lines_in_any_order_must_all_come_and_nothing_else() {
    let text = "> s\\r\\n\n? STAT a 1/0\\r\\n\n? STAT bb 2/0\\r\\n\n? STAT a 1/0\\r\\n\n< END\\r\\n\n";
    let reply = |reply: &'static str| play(&[("s\r\n", reply, false)], text);
    reply("STAT a 1/0\r\nSTAT bb 2/0\r\nSTAT a 1/0\r\nEND\r\n").unwrap();
    reply("STAT bb 2/0\r\nSTAT a 1/0\r\nSTAT a 1/0\r\nEND\r\n").unwrap();
    assert_fails(
        reply("STAT a 1/0\r\nSTAT bb 2/0\r\nEND\r\n"),
        &["t.txt:2:", "expected STAT a 1/0\\r\\n", "got      END"],
    );
    assert_fails(reply("STAT bb 2/0\r\nSTAT bb 2/0\r\nSTAT a 1/0\r\nEND\r\n"), &["t.txt:2:"]);
    assert_fails(reply("STAT a 1/0\r\nSTAT c 1/0\r\nSTAT a 1/0\r\nEND\r\n"), &["t.txt:2:"]);
    assert_fails(reply("STAT a 1/0\r\nSTAT bb 2/0"), &["t.txt:2:", "then nothing more"]);
    assert_fails(reply("STAT a 1/0\r\nSTAT bb 2/0\r\nSTAT a 1/0\r\nSTAT a 1/0\r\nEND\r\n"), &["t.txt:5:"]);
}

#[test]
fn long_bytes_are_cut_in_errors() {
    let result = play(&[GET], "> get q\\r\\n\n< {x*5000}\n");
    assert_fails(result, &["x… (5000 bytes in all)"]);
}

// Parsing.

#[test]
fn escapes_and_repeats_stand_for_bytes() {
    assert_eq!(payload("a\\r\\n\\t\\\\\\0\\x00\\xfF"), b"a\r\n\t\\\0\0\xff");
    assert_eq!(payload("{ab*3}c{\\x7b*2}{**2}{ *2}"), b"abababc{{**  ");
    assert_eq!(payload("{x*250}").len(), 250);
}

#[test]
fn payloads_that_could_be_misread_are_refused() {
    for text in [
        "",
        "\\q",
        "\\x1",
        "\\xg0",
        "\\",
        "a}b",
        "{ab",
        "{ab}",
        "{ab*}",
        "{*3}",
        "{x*0}",
        "{x*99999999999}",
        "{x*-1}",
        "é",
        "\u{1}",
        "{digits}",
    ] {
        parse_exact(text).expect_err(text);
    }
    for text in ["{digits}", "{digits}1", "{digits}{text}\\r", "{text} x", "{version}.", "{stats}STAT", "{nonsense}"] {
        parse_pattern(text).expect_err(text);
    }
    for text in ["STAT a", "a\\nb", "a\\nb\\n", "{text}\\n"] {
        parse_whole_line(text).expect_err(text);
    }
}

#[test]
fn steps_carry_line_and_connection() {
    let transcript = Transcript::parse(
        "f",
        10,
        "# c\n= -B 64 -t 2 --max-open-reads 3 --enable-flush-all --enable-shutdown\n\n> x\n@ B\n? a\\n\n? b\\n\n@ A\n? c\\n\n",
    )
    .unwrap();
    let options = ServerOptions {
        body_size_max: Some(64),
        threads: Some(2),
        open_reads_max: Some(3),
        enable_flush_all: true,
        enable_shutdown: true,
        ..ServerOptions::default()
    };
    assert_eq!(transcript.options, options);
    assert_eq!(
        options.args(),
        ["-B", "64", "-t", "2", "--max-open-reads", "3", "--enable-flush-all", "--enable-shutdown"]
    );
    let step = |line, conn: &str, action| Step { line, conn: conn.to_string(), action };
    let expected = [
        step(13, "A", Action::Send(b"x".to_vec())),
        step(15, "B", Action::ExpectAnyOrder(vec![b"a\n".to_vec(), b"b\n".to_vec()])),
        step(18, "A", Action::ExpectAnyOrder(vec![b"c\n".to_vec()])),
    ];
    assert_eq!(transcript.steps, expected);
    assert_eq!(parse("> x\n").unwrap().options.args(), [""; 0]);
    let options = parse("= --max-open-reads 2\n@ kestrel:A\n> x\n").unwrap().options;
    assert_eq!(options.args(), ["--max-open-reads", "2", "--kestrel-port", "0"]);
}

#[test]
fn bad_transcripts_are_refused_with_their_line() {
    let bad = [
        "",
        "# only a comment\n",
        "> x\n= -B 64\n",
        "= -B 64\n= -t 1\n> x\n",
        "= -B\n> x\n",
        "= -B x\n> x\n",
        "= -z\n> x\n",
        "* x\n",
        "x\n",
        "é\n",
        ". x\n",
        "$x\n",
        "^ x\n",
        "+500\n",
        "+ms\n",
        "@\n",
        "@ a b\n",
        "> x \n",
        "> x\t\n",
        "< \n",
        ">\n",
        "> {digits}\n",
        "? x\n",
        "> x\n$\n> y\n",
        "> x\n^\n$\n",
    ];
    for text in bad {
        let error = parse(text).expect_err(text);
        assert!(error.starts_with("t.txt:"), "{error}");
    }
    assert!(parse("> x\n$\n> y\n").unwrap_err().starts_with("t.txt:3:"));
}

#[test]
fn markdown_gives_its_transcript_blocks_with_their_lines() {
    let text =
        "# T\n\n```transcript\n> a\n< b\n```\n\n```text\n> no\n```\n```\n> no\n```\ntext\n``` transcript \n> c\n```\n";
    let expected = [(4, "> a\n< b\n".to_string()), (16, "> c\n".to_string())];
    assert_eq!(extract_from_markdown(text), expected);
    assert_eq!(extract_from_markdown("no blocks\n"), []);
}

#[test]
#[should_panic(expected = "ends inside a fenced block")]
fn markdown_that_ends_inside_a_block_is_no_markdown() {
    extract_from_markdown("```transcript\n> a\n");
}

// The project's own transcripts.

#[test]
fn every_transcript_of_the_project_parses() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut parsed = 0;
    for entry in std::fs::read_dir(root.join("tests/transcripts")).expect("the transcripts are there") {
        let path = entry.expect("the directory can be read").path();
        let text = std::fs::read_to_string(&path).expect("a transcript is text");
        Transcript::parse(&path.display().to_string(), 1, &text).unwrap_or_else(|why| panic!("{why}"));
        parsed += 1;
    }
    assert!(parsed > 0, "there are no transcripts");

    let protocol = std::fs::read_to_string(root.join("docs/PROTOCOL.md")).expect("the protocol is documented");
    let examples = extract_from_markdown(&protocol);
    assert!(!examples.is_empty(), "the protocol's documentation has no example");
    for (line, text) in examples {
        Transcript::parse("docs/PROTOCOL.md", line, &text).unwrap_or_else(|why| panic!("{why}"));
    }
}
