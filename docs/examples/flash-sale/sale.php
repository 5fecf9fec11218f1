<?php
// What the pages, the worker and the set-up of the sale share: its numbers, its files, its queue.
// A visitor is a random number in a cookie. The ledger is what decides who has a ticket; a visitor's file only remembers what
// the gate has answered, so that nobody is put twice who need not be.

declare(strict_types=1);

const QUEUE = 'tickets';
// How many there are to sell, and how many visitors are let into the line for them.
define('TICKETS', (int) (getenv('SALE_TICKETS') ?: 100));
define('GATE', (int) (getenv('SALE_GATE') ?: 500));
// Where RingQ listens, and where the files of the sale are.
define('RINGQ', getenv('SALE_RINGQ') ?: '127.0.0.1:22201');
define('DATA', getenv('SALE_DATA') ?: 'sale-data');
define('LEDGER', DATA . '/ledger');
define('VISITORS', DATA . '/visitors');

/** A connection to RingQ. Nothing is sent twice on its own account: a put without an answer may have been stored. */
function queue(): Memcached
{
    [$host, $port] = explode(':', RINGQ);
    $queue = new Memcached();
    $queue->setOption(Memcached::OPT_STORE_RETRY_COUNT, 0);
    $queue->addServer($host, (int) $port);
    return $queue;
}

/** Who asks, by the cookie; null for who has none. */
function visitor(): ?string
{
    $visitor = $_COOKIE['visitor'] ?? '';
    return preg_match('/^[0-9a-f]{32}$/D', $visitor) ? $visitor : null;
}

/** Gives a new visitor a name that nobody can guess. */
function welcome(): void
{
    setcookie('visitor', bin2hex(random_bytes(16)), ['httponly' => true, 'samesite' => 'Lax', 'path' => '/']);
}

/** Opens a visitor's file and keeps it from all other requests of the visitor until it is closed. */
function visitor_file(string $visitor)
{
    $file = fopen(VISITORS . "/$visitor", 'c+');
    flock($file, LOCK_EX);
    return $file;
}

/**
 * What the gate has told a visitor. The file has a line `asked` for each put, followed by `admitted` or `refused` if there was an answer.
 * new, admitted, refused; unanswered: a put had no answer; refused-later: so had one, and one after it was refused.
 */
function standing(string $lines): string
{
    return match (true) {
        $lines === '' => 'new',
        str_ends_with($lines, "admitted\n") => 'admitted',
        !str_ends_with($lines, "refused\n") => 'unanswered',
        substr_count($lines, 'asked') > 1 => 'refused-later',
        default => 'refused',
    };
}

/** The lines of the ledger, one for each message of the line: its id, the visitor, and what it came to. */
function ledger_lines(string $text): array
{
    // What follows the last line end is a line that is being written, or was when the worker died.
    return array_map(fn ($line) => explode(' ', $line), array_slice(explode("\n", $text), 0, -1));
}

function redirect(string $to): never
{
    header("Location: $to", true, 303);
    exit;
}

/** A page, without a script unless it is told one. */
function page(string $title, string $body, string $script = ''): void
{
    header('Content-Type: text/html; charset=utf-8');
    header('Cache-Control: no-store');
    echo <<<HTML
        <!doctype html>
        <html lang="en">
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>$title – The Gasworks</title>
        <link rel="icon" href="data:,">
        <link rel="stylesheet" href="/style.css">
        <header><p><a href="/">The Gasworks</a></p></header>
        <main aria-live="polite">
        $body
        </main>
        $script
        </html>

        HTML;
}
