<?php
// PHP's two extensions over a unix socket: Memcache names it unix:///path, Memcached the path itself, both with port 0. What one puts, the
// other takes, and both ask for the statistics.
// Usage: php php_unix_socket.php PATH

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

$path = $argv[1];
require_extension('memcache');
require_extension('memcached');

const LARGE_SIZE = 900_000;

$memcache = new Memcache;
check('Memcache: connect', true, $memcache->connect("unix://$path", 0));
$memcached = new Memcached();
check('Memcached: add server', true, $memcached->addServer($path, 0));
// So that bodies are what was given.
$memcached->setOption(Memcached::OPT_COMPRESSION, false);

exchange('Memcache', $memcache, $memcache);
exchange('Memcached', $memcached, $memcached);
exchange('Memcache to Memcached', $memcache, $memcached);
exchange('Memcached to Memcache', $memcached, $memcache);
check('Memcache: close', true, $memcache->close());
check('Memcached: quit', true, $memcached->quit());

finish();

function exchange(string $name, Memcache|Memcached $from, Memcache|Memcached $to): void
{
    $queue = queue_name(str_replace(' ', '-', $name));
    $values = ['plain text', '', "END\r\nget x\r\n\0", random_bytes(LARGE_SIZE)];
    $before = stats($to);
    foreach ($values as $value) {
        check("$name: put " . strlen($value) . ' bytes', true, $from->set($queue, $value));
    }
    foreach ($values as $value) {
        check("$name: get " . strlen($value) . ' bytes', true, $to->get($queue) === $value);
    }
    check("$name: the queue is empty", false, $to->get($queue));
    $after = stats($to);
    foreach (['set_hits', 'get_hits'] as $count) {
        check("$name: stats counted $count", count($values), (int) $after[$count] - (int) $before[$count]);
    }
}

/** The statistics of the one server. */
function stats(Memcache|Memcached $client): array
{
    return $client instanceof Memcache ? $client->getStats() : array_values($client->getStats())[0];
}
