<?php
// Prepares a sale: its files, and the gate, which is a setting of the queue. RingQ keeps it, so once is enough; twice does no harm.
// Usage: php setup.php

declare(strict_types=1);
require __DIR__ . '/sale.php';

is_dir(VISITORS) || mkdir(VISITORS, 0700, true);
touch(LEDGER);

$ringq = stream_socket_client('tcp://' . RINGQ, timeout: 5);
fwrite($ringq, 'config ' . QUEUE . ' max_admissions=' . GATE . "\r\n");
$answer = trim((string) fgets($ringq));
if ($answer !== 'OK') {
    fwrite(STDERR, "RingQ did not take the setting: $answer\n");
    exit(1);
}
echo 'The line for ' . TICKETS . ' tickets takes ' . GATE . " visitors.\n";
