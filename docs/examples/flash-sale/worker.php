<?php
// Sells the tickets: reads the line in its order, writes what each message came to into the ledger, and confirms the message when that
// is on the disk. It may be killed at any moment. What was not confirmed comes again, first; what is in the ledger is not written again.
// Usage: php worker.php

declare(strict_types=1);
require __DIR__ . '/sale.php';

const OPEN = QUEUE . '/open/t=1000';
const CLOSE_AND_OPEN = QUEUE . '/close/open/t=1000';

$ledger = new Ledger(LEDGER);
$queue = queue();
$read = OPEN;
while (true) {
    $message = $queue->get($read, null, Memcached::GET_EXTENDED);
    if ($message !== false) {
        $ledger->record((string) $message['cas'], $message['value']);
        $read = CLOSE_AND_OPEN;
    } elseif ($queue->getResultCode() === Memcached::RES_NOTFOUND) {
        // Nobody came within a second.
        $read = OPEN;
    } else {
        // RingQ has gone. What was open goes back to its place, or was confirmed: the ledger knows it in either case.
        usleep(100_000);
        $queue = queue();
        $read = OPEN;
    }
}

/** An append-only file that says what each message came to. One process at a time has it. */
final class Ledger
{
    private $file;
    /** Messages and visitors that are in it. */
    private array $messages = [];
    private array $visitors = [];

    public function __construct(string $path)
    {
        $this->file = fopen($path, 'c+');
        // A second worker waits here until the first has ended, however that ends.
        flock($this->file, LOCK_EX);
        $text = stream_get_contents($this->file);
        foreach (ledger_lines($text) as [$message, $visitor]) {
            $this->messages[$message] = $this->visitors[$visitor] = true;
        }
        // Half a line is no sale; its message comes again.
        $end = strrpos($text, "\n");
        ftruncate($this->file, $end === false ? 0 : $end + 1);
        fseek($this->file, 0, SEEK_END);
        $this->sync(true);
    }

    /**
     * Gives the visitor of a message the next ticket, if there is one. A message that comes again changes nothing. A visitor whose
     * first put was stored without an answer may stand in the line a second time; that is no second ticket.
     */
    public function record(string $message, string $visitor): void
    {
        if (isset($this->messages[$message])) {
            return;
        }
        $place = count($this->visitors) + 1;
        $outcome = match (true) {
            isset($this->visitors[$visitor]) => 'again',
            $place <= TICKETS => "ticket-$place",
            default => "late-$place",
        };
        $line = "$message $visitor $outcome\n";
        $this->sync(fwrite($this->file, $line) === strlen($line));
        $this->messages[$message] = $this->visitors[$visitor] = true;
    }

    private function sync(bool $is_written): void
    {
        // Confirming what may be lost would lose a sale. Half a line is cut off at the next start.
        if (!$is_written || !fflush($this->file) || !fsync($this->file)) {
            fwrite(STDERR, "the ledger cannot be written; nothing is confirmed\n");
            exit(1);
        }
    }
}
