<?php
// Reporting shared by the PHP client checks: the arguments HOST PORT, queue names that no other run uses, one line per
// check, the exit status (0 all well, 1 a check failed, 77 the client is not installed).
// Any PHP notice or warning that a check did not ask for with @ is a failed check too: an extension reports a reply it
// did not understand that way. It knows nothing of queues beyond sending raw bytes.

declare(strict_types=1);

const EXIT_SKIPPED = 77;
const RAW_TIMEOUT_S = 10;

$failures = 0;
$passes = 0;

set_error_handler(function (int $level, string $message, string $file, int $line): bool {
    if (error_reporting() & $level) {
        fail('no PHP message', 'none', "$message at " . basename($file) . ":$line");
    }
    return true;
});

/** HOST and PORT from the command line. */
function server_arguments(): array
{
    global $argv;
    if (count($argv) !== 3 || !ctype_digit($argv[2])) {
        fwrite(STDERR, "usage: php {$argv[0]} HOST PORT\n");
        exit(2);
    }
    return [$argv[1], (int) $argv[2]];
}

/** Ends the run as skipped unless the extension is loaded. */
function require_extension(string $extension): void
{
    if (!extension_loaded($extension)) {
        echo "the PHP extension $extension is not installed\n";
        exit(EXIT_SKIPPED);
    }
}

/** A queue name that belongs to this script and this run. */
function queue_name(string $suffix): string
{
    global $argv;
    static $run = null;
    $run ??= getmypid() . '-' . hrtime(true);
    return basename($argv[0], '.php') . "-$run-$suffix";
}

/** One check: the values must be identical in type and content. */
function check(string $name, mixed $expected, mixed $got): void
{
    if ($expected === $got) {
        pass($name);
    } else {
        fail($name, shown($expected), shown($got));
    }
}

function pass(string $name): void
{
    global $passes;
    $passes++;
    echo "ok $name\n";
}

function fail(string $name, string $expected, string $got): void
{
    global $failures;
    $failures++;
    echo "FAIL $name: expected $expected, got $got\n";
}

/** Ends the run with the status its checks earned; a run without checks has failed. */
function finish(): never
{
    global $failures, $passes;
    exit($failures === 0 && $passes > 0 ? 0 : 1);
}

/** A value on one line, long strings by length and digest. */
function shown(mixed $value): string
{
    if (is_string($value) && strlen($value) > 200) {
        return strlen($value) . ' bytes with crc32 ' . hash('crc32b', $value);
    }
    if (is_string($value)) {
        return '"' . addcslashes($value, "\0..\37\"\\\177..\377") . '"';
    }
    $text = addcslashes(preg_replace('/\s+/', ' ', var_export($value, true)), "\0..\37\177..\377");
    return strlen($text) > 400 ? substr($text, 0, 400) . '…' : $text;
}

/** Sends bytes on a connection of its own; returns the reply through the line $last_line, or all of it until the close. */
function raw_request(string $host, int $port, string $request, ?string $last_line): string
{
    $socket = stream_socket_client("tcp://$host:$port", $code, $reason, RAW_TIMEOUT_S);
    stream_set_timeout($socket, RAW_TIMEOUT_S);
    fwrite($socket, $request);
    $reply = '';
    while (($line = fgets($socket)) !== false) {
        $reply .= $line;
        if ($last_line !== null && $line === "$last_line\r\n") {
            break;
        }
    }
    fclose($socket);
    return $reply;
}

/** The `puts/gets` that `stats queue` tells for one queue, null when it does not list it. */
function queue_counts(string $host, int $port, string $queue): ?string
{
    foreach (explode("\r\n", raw_request($host, $port, "stats queue\r\n", 'END')) as $line) {
        $words = explode(' ', $line);
        if (count($words) === 3 && $words[0] === 'STAT' && $words[1] === $queue) {
            return $words[2];
        }
    }
    return null;
}
