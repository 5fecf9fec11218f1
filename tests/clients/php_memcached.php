<?php
// PHP's Memcached extension (libmemcached) against a queue: flags of every type it encodes, compression, multi-get, cas
// values, quiet puts and the administration calls with libmemcached's trailing blanks.
// Usage: php php_memcached.php HOST PORT

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

[$host, $port] = server_arguments();
require_extension('memcached');

// Above the extension's threshold of 2000 bytes, from which it compresses unasked.
const AUTO_COMPRESSED_SIZE = 60_000;
const QUIET_PUTS = 500;

$client = new Memcached();
$client->setOption(Memcached::OPT_BINARY_PROTOCOL, false);
check('add server', true, $client->addServer($host, $port));

values($client);
compression($client, $host, $port);
multi_get($client);
cas_values($client);
quiet_puts($host, $port);
refusals($client, $host, $port);
administration($client, $host, $port);
check('quit', true, $client->quit());

finish();

function values(Memcached $client): void
{
    $queue = queue_name('values');
    $values = [
        'text' => 'plain text',
        'empty string' => '',
        'every byte value' => implode('', array_map('chr', range(0, 255))),
        'line ends and protocol words' => "END\r\nget x\r\n\r\n",
        'array' => ['id' => 7, 'tags' => ['a', "b\0c"], 'none' => null],
        'integer' => 42,
        'negative integer' => -1,
        'float' => 2.5,
        'true' => true,
        'false' => false,
        'object' => (object) ['name' => 'job'],
    ];
    foreach ($values as $name => $value) {
        check("put $name", [true, Memcached::RES_SUCCESS], [$client->set($queue, $value), $client->getResultCode()]);
    }
    foreach ($values as $name => $value) {
        $got = $client->get($queue);
        check("get $name in order", [serialize($value), Memcached::RES_SUCCESS], [serialize($got), $client->getResultCode()]);
    }
    check('empty queue is false', [false, Memcached::RES_NOTFOUND], [$client->get($queue), $client->getResultCode()]);
    check('put with an expiry time', true, $client->set($queue, 'kept', 3600));
    check('get with an expiry time', 'kept', $client->get($queue));
}

function compression(Memcached $client, string $host, int $port): void
{
    $queue = queue_name('compressed');
    $large = str_repeat('abcdefghij', AUTO_COMPRESSED_SIZE / 10);
    check('put large value', true, $client->set($queue, $large));
    check('put large array', true, $client->set($queue, [$large, 1]));
    check('put large value once more', true, $client->set($queue, $large));

    $on_the_wire = explode(' ', strtok(raw_request($host, $port, "get $queue\r\nquit\r\n", 'END'), "\r"));
    check('large value was sent with flags', true, (int) $on_the_wire[2] > 0);
    check('large value was sent shorter than it is', true, (int) $on_the_wire[3] < AUTO_COMPRESSED_SIZE);

    check('get compressed array', [$large, 1], $client->get($queue));
    check('get compressed value', $large, $client->get($queue));

    $noise = random_bytes(500_000);
    check('put large noise', true, $client->set($queue, $noise));
    check('get large noise', $noise, $client->get($queue));
}

function multi_get(Memcached $client): void
{
    $first = queue_name('multi-1');
    $second = queue_name('multi-2');
    $empty = queue_name('multi-empty');
    check('setMulti', true, $client->setMulti([$first => 'one', $second => ['three']]));
    check('put one more', true, $client->set($first, 'two'));
    check('getMulti takes one of each', [$first => 'one', $second => ['three']], $client->getMulti([$first, $empty, $second]));
    check('getMulti of what is left', [$first => 'two'], $client->getMulti([$first, $empty, $second]));
    check('getMulti of empty queues', [], $client->getMulti([$first, $empty, $second]));
}

function cas_values(Memcached $client): void
{
    $queue = queue_name('cas');
    $client->set($queue, 'first');
    $client->set($queue, 'second');
    $first = $client->get($queue, null, Memcached::GET_EXTENDED);
    $second = $client->get($queue, null, Memcached::GET_EXTENDED);
    check('extended get tells the value', ['first', 'second'], [$first['value'] ?? null, $second['value'] ?? null]);
    check('extended get tells a cas value', true, ($first['cas'] ?? 0) > 0);
    check('cas values rise within a queue', true, ($second['cas'] ?? 0) > ($first['cas'] ?? 0));
}

function quiet_puts(string $host, int $port): void
{
    $queue = queue_name('quiet');
    $quiet = new Memcached();
    $quiet->setOption(Memcached::OPT_NOREPLY, true);
    $quiet->addServer($host, $port);
    $accepted = 0;
    for ($n = 0; $n < QUIET_PUTS; $n++) {
        $accepted += (int) $quiet->set($queue, "message $n");
    }
    check('quiet puts', QUIET_PUTS, $accepted);
    $in_order = 0;
    while ($quiet->get($queue) === "message $in_order") {
        $in_order++;
    }
    check('the same connection takes them all in order', QUIET_PUTS, $in_order);
    $quiet->set($queue, 'dropped');
    $quiet->delete($queue);
    check('a quiet delete drops the queue', false, $quiet->get($queue));
    $quiet->quit();
}

function refusals(Memcached $client, string $host, int $port): void
{
    $queue = queue_name('refused');
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    check('too large value is refused', false, $client->set($queue, random_bytes(2 * 1024 * 1024)));
    check('usable after the refusal', true, $client->set($queue, 'small'));
    check('add is refused', false, $client->add($queue, 'get not a command'));
    check('increment is refused', false, $client->increment($queue));
    check('usable after refused commands', 'small', $client->get($queue));
    check('refused commands stored nothing', false, $client->get($queue));

    $client->set($queue, 'still here');
    check('flush is refused', false, $client->flush());
    check('flush removed nothing', '2/1', queue_counts($host, $port, $queue));
    check('usable after the refused flush', 'still here', $client->get($queue));
}

function administration(Memcached $client, string $host, int $port): void
{
    $server = "$host:$port";
    $version = $client->getVersion();
    check('version has a major of 1', 1, preg_match('/^1\.\d+\.\d+/', $version[$server] ?? ''));

    $queue = queue_name('dropped');
    $client->set($queue, 'lost with its queue');
    check('delete drops the queue', true, $client->delete($queue));
    check('deleted queue is empty', false, $client->get($queue));
    check(
        'delete of an unknown queue',
        [false, Memcached::RES_NOTFOUND],
        [$client->delete($queue), $client->getResultCode()],
    );

    $counted = queue_name('counted');
    $client->set($counted, 'a');
    $client->set($counted, 'b');
    $client->get($counted);
    $stats = $client->getStats()[$server] ?? [];
    check('stats tell the process id', true, ($stats['pid'] ?? 0) > 0);
    check('stats counted puts and gets', true, ($stats['set_hits'] ?? 0) >= 2 && ($stats['get_hits'] ?? 0) >= 1);
    check('stats queue', '2/1', $client->getStats('queue')[$server][$counted] ?? null);
}
