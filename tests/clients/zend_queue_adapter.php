<?php
// What Zend Framework 1's queue adapter for MemcacheQ sends: a queue is created by a put that is taken back, messages go
// through the Memcache extension, listing and dropping go over a socket of the adapter's own. The adapter itself is not
// loaded; its traffic is made here. It takes the whole rest of a STAT line for the queue's name, counters included, which
// has been wrong since MemcacheQ 0.2 printed counters; the check reads the name up to the blank.
// Usage: php zend_queue_adapter.php HOST PORT

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

[$host, $port] = server_arguments();
require_extension('memcache');

const MESSAGES = 10;

$cache = new Memcache();
check('connect', true, $cache->connect($host, $port));
$queue = queue_name('zend');

// Create.
check('create: put the placeholder', true, $cache->set($queue, 'creating queue', 0, 15));
check('create: take it back', 'creating queue', $cache->get($queue));
check('the created queue is listed', true, in_array($queue, listed_queues($host, $port), true));

// Send. The adapter keeps to strings and does not compress.
for ($n = 1; $n <= MESSAGES; $n++) {
    check("send $n", true, $cache->set($queue, "message $n", 0, 0));
}

// Receive up to so many messages: one get each, the first miss ends it.
check('receive 3', ['message 1', 'message 2', 'message 3'], receive($cache, $queue, 3));
check('receive the rest', MESSAGES - 3, count(receive($cache, $queue, 100)));
check('receive from the empty queue', [], receive($cache, $queue, 1));

// Delete.
check('delete', ['DELETED'], adapter_command($host, $port, "delete $queue", ['DELETED', 'NOT_FOUND']));
check('delete again', ['NOT_FOUND'], adapter_command($host, $port, "delete $queue", ['DELETED', 'NOT_FOUND']));
check('the deleted queue is not listed', false, in_array($queue, listed_queues($host, $port), true));
check('close', true, $cache->close());

finish();

function receive(Memcache $cache, string $queue, int $max): array
{
    $messages = [];
    for ($n = 0; $n < $max; $n++) {
        $message = $cache->get($queue);
        if ($message === false) {
            break;
        }
        $messages[] = $message;
    }
    return $messages;
}

function listed_queues(string $host, int $port): array
{
    $names = [];
    foreach (adapter_command($host, $port, 'stats queue', ['END']) as $line) {
        if ($line !== 'END') {
            $names[] = explode(' ', str_replace('STAT ', '', $line))[0];
        }
    }
    return $names;
}

/** One command on a new socket, its lines up to a terminator, then `quit`, after which the server must close silently. */
function adapter_command(string $host, int $port, string $command, array $terminators): array
{
    $socket = fsockopen($host, $port, $code, $reason, RAW_TIMEOUT_S);
    stream_set_timeout($socket, RAW_TIMEOUT_S);
    fwrite($socket, "$command\r\n");
    $lines = [];
    do {
        $line = fgets($socket);
        if ($line === false) {
            fail("a reply to $command", 'a terminator', 'the end of the connection or a timeout');
            break;
        }
        $lines[] = rtrim($line, "\r\n");
    } while (!in_array(end($lines), $terminators, true));
    fwrite($socket, "quit\r\n");
    $rest = stream_get_contents($socket);
    $closed = feof($socket);
    fclose($socket);
    if ($rest !== '' || !$closed) {
        fail("quit after $command", 'a silent close', shown($rest));
    }
    return $lines;
}
