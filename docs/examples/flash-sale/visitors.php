<?php
// A crowd: so many visitors, some of them at a time, each of whom opens the front page, presses the button, and presses it again when
// there was no answer. Tells what became of them. It knows only the address of the pages.
// Usage: php visitors.php http://127.0.0.1:8080 5000 [AT_A_TIME]

declare(strict_types=1);

const ANSWER_S = 30;
// How long a visitor waits before trying again.
const PAUSE_MS = 200;

[, $address, $count] = $argv + [1 => 'http://127.0.0.1:8080', 5000];
$at_a_time = (int) ($argv[3] ?? 32);
$host = parse_url($address, PHP_URL_HOST) . ':' . parse_url($address, PHP_URL_PORT);
$seen = ['in the line' => 0, 'sold out' => 0, 'tries without an answer' => 0];

// Visits under way: what waits for a socket, and what waits for a time.
$waiting = $pausing = [];
for ($started = 0; $started < $count || $waiting !== [] || $pausing !== [];) {
    while ($started < $count && count($waiting) + count($pausing) < $at_a_time) {
        $started++;
        go(new Fiber(visit(...)));
    }
    foreach ($pausing as $number => [$visit, $until]) {
        if (hrtime(true) >= $until) {
            unset($pausing[$number]);
            go($visit);
        }
    }
    if ($waiting === []) {
        usleep(PAUSE_MS * 1000);
        continue;
    }
    $readers = array_column(array_filter($waiting, fn ($each) => !$each[2]), 1);
    $writers = array_column(array_filter($waiting, fn ($each) => $each[2]), 1);
    $others = null;
    [$seconds, $ms] = $pausing === [] ? [ANSWER_S, 0] : [0, PAUSE_MS];
    if (!stream_select($readers, $writers, $others, $seconds, $ms * 1000) && $pausing === []) {
        fail("no answer from $address in " . ANSWER_S . ' s');
    }
    foreach ([...$readers, ...$writers] as $socket) {
        [$visit] = $waiting[(int) $socket];
        unset($waiting[(int) $socket]);
        go($visit);
    }
}
foreach ($seen as $what => $number) {
    echo "$number $what\n";
}

/** Lets a visitor go on until there is something to wait for. */
function go(Fiber $visit): void
{
    global $waiting, $pausing;
    $awaited = $visit->isStarted() ? $visit->resume() : $visit->start();
    if (is_int($awaited)) {
        $pausing[] = [$visit, $awaited];
    } elseif ($awaited !== null) {
        [$socket, $writes] = $awaited;
        $waiting[(int) $socket] = [$visit, $socket, $writes];
    }
}

function visit(): void
{
    global $seen;
    preg_match('/^Set-Cookie: (visitor=[0-9a-f]+)/mi', request('GET', '/'), $cookie);
    do {
        preg_match('/^Location: (\S+)/mi', request('POST', '/buy.php', $cookie[1]), $to);
        $page = ($to[1] ?? '') === '/place.php' ? request('GET', '/place.php', $cookie[1]) : '';
        $is_unanswered = str_contains($page, 'Try again');
        $seen['tries without an answer'] += (int) $is_unanswered;
        if ($is_unanswered) {
            Fiber::suspend(hrtime(true) + PAUSE_MS * 1_000_000);
        }
    } while ($is_unanswered);
    $seen[$page === '' || str_contains($page, 'Location: /sold-out.html') ? 'sold out' : 'in the line']++;
}

/** The answer to a request, head and body. */
function request(string $method, string $path, string $cookie = ''): string
{
    global $host;
    $socket = stream_socket_client("tcp://$host", $code, $reason, 10, STREAM_CLIENT_CONNECT | STREAM_CLIENT_ASYNC_CONNECT);
    stream_set_blocking($socket, false);
    Fiber::suspend([$socket, true]);
    // Fails where nobody listens; the answer is empty then.
    @fwrite($socket, "$method $path HTTP/1.0\r\nHost: $host\r\nCookie: $cookie\r\nContent-Length: 0\r\n\r\n");
    $answer = '';
    while (!feof($socket)) {
        Fiber::suspend([$socket, false]);
        $answer .= stream_get_contents($socket);
    }
    fclose($socket);
    if ($answer === '') {
        fail("no answer to $method $path from $host: are the pages there?");
    }
    return $answer;
}

function fail(string $reason): never
{
    fwrite(STDERR, "$reason\n");
    exit(1);
}
