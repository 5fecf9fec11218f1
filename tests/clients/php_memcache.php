<?php
// PHP's Memcache extension (PECL memcache) against a queue: every kind of value it encodes in flags, both ways it
// compresses, its multi-get, its administration calls, and a refusal after which the connection goes on.
// Usage: php php_memcache.php HOST PORT

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

[$host, $port] = server_arguments();
require_extension('memcache');

// Above the extension's own threshold of 20000 bytes, from which it compresses unasked.
const AUTO_COMPRESSED_SIZE = 60_000;
// Above the server's default limit of 1 MiB for a body.
const TOO_LARGE_SIZE = 2 * 1024 * 1024;

$client = new Memcache;
check('connect', true, $client->connect($host, $port));

values($client);
compression($client, $host, $port);
multi_get($client);
refusal($client, $host, $port);
administration($client, $host, $port);
check('close', true, $client->close());

finish();

function values(Memcache $client): void
{
    $queue = queue_name('values');
    $every_byte = implode('', array_map('chr', range(0, 255)));
    $values = [
        'text' => 'plain text',
        'empty string' => '',
        'every byte value' => $every_byte,
        'line ends and protocol words' => "END\r\nget x\r\n\r\n",
        'array' => ['id' => 7, 'tags' => ['a', "b\0c"], 'none' => null],
        'integer' => 42,
        'negative integer' => -1,
        'float' => 2.5,
        'true' => true,
        'object' => (object) ['name' => 'job'],
    ];
    foreach ($values as $name => $value) {
        check("put $name", true, $client->set($queue, $value));
    }
    foreach ($values as $name => $value) {
        $got = $client->get($queue);
        check("get $name in order", serialize($value), serialize($got));
    }
    check('empty queue is false', false, $client->get($queue));
    check('unknown queue is false', false, $client->get(queue_name('never used')));
}

function compression(Memcache $client, string $host, int $port): void
{
    $queue = queue_name('compressed');
    $large = str_repeat('abcdefghij', AUTO_COMPRESSED_SIZE / 10);
    check('put large value', true, $client->set($queue, $large));
    check('put value compressed on request', true, $client->set($queue, $large, MEMCACHE_COMPRESSED));
    check('put large array', true, $client->set($queue, [$large], MEMCACHE_COMPRESSED));

    $on_the_wire = explode(' ', strtok(raw_request($host, $port, "get $queue\r\nquit\r\n", 'END'), "\r"));
    check('large value was sent with the compressed flag', MEMCACHE_COMPRESSED, (int) $on_the_wire[2] & MEMCACHE_COMPRESSED);
    check('large value was sent shorter than it is', true, (int) $on_the_wire[3] < AUTO_COMPRESSED_SIZE);

    check('get value compressed on request', $large, $client->get($queue));
    check('get compressed array', [$large], $client->get($queue));

    $noise = random_bytes(500_000);
    check('put large noise', true, $client->set($queue, $noise));
    check('get large noise', $noise, $client->get($queue));
}

function multi_get(Memcache $client): void
{
    $first = queue_name('multi-1');
    $second = queue_name('multi-2');
    $empty = queue_name('multi-empty');
    $client->set($first, 'one');
    $client->set($first, 'two');
    $client->set($second, ['three']);
    check('multi-get takes one of each', [$first => 'one', $second => ['three']], $client->get([$first, $empty, $second]));
    check('multi-get of what is left', [$first => 'two'], $client->get([$first, $empty, $second]));
    check('multi-get of empty queues', [], (array) $client->get([$first, $empty, $second]));
}

function refusal(Memcache $client, string $host, int $port): void
{
    $queue = queue_name('too-large');
    // Noise, because the extension would compress anything else below the limit.
    check('too large value is refused', false, @$client->set($queue, random_bytes(TOO_LARGE_SIZE)));
    check('the client still trusts the server', true, $client->getServerStatus($host, $port) !== 0);
    check('connection is usable after the refusal', true, $client->set($queue, 'small'));
    check('only the small value was stored', 'small', $client->get($queue));
    check('nothing else was stored', false, $client->get($queue));
}

function administration(Memcache $client, string $host, int $port): void
{
    check('version has a major of 1', 1, preg_match('/^1\.\d+\.\d+/', (string) $client->getVersion()));

    $queue = queue_name('dropped');
    $client->set($queue, 'lost with its queue');
    check('delete drops the queue', true, $client->delete($queue));
    check('deleted queue is empty', false, $client->get($queue));
    check('delete of an unknown queue', false, $client->delete(queue_name('never used')));

    $counted = queue_name('counted');
    $before = $client->getStats();
    $client->set($counted, 'a');
    $client->get($counted);
    $after = $client->getStats();
    check('stats tell the process id', true, is_array($after) && ctype_digit($after['pid']));
    check('stats counted the put', true, (int) $after['set_hits'] > (int) $before['set_hits']);
    check('stats counted the get', true, (int) $after['get_hits'] > (int) $before['get_hits']);
    check('stats of the version', $client->getVersion(), $after['version']);

    // A client of its own: after an ERROR this extension leaves the server alone for its retry interval.
    $flusher = new Memcache;
    $flusher->connect($host, $port);
    $kept = queue_name('kept');
    $client->set($kept, 'still here');
    check('flush is refused', false, @$flusher->flush());
    check('flush removed nothing', 'still here', $client->get($kept));
}
