<?php
// The PHP session of the README, as a reader would type it.
// Usage: php session_readme.php HOST PORT

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

[$host, $port] = server_arguments();
require_extension('memcached');

$jobs = queue_name('jobs');

$queue = new Memcached();
$queue->setOption(Memcached::OPT_BINARY_PROTOCOL, false);
$queue->addServer($host, $port);

check('set', true, $queue->set($jobs, ['resize', 'cat.jpg']));
check('set a second one', true, $queue->set($jobs, ['resize', 'dog.jpg']));
check('get', ['resize', 'cat.jpg'], $queue->get($jobs));
check('get the second one', ['resize', 'dog.jpg'], $queue->get($jobs));
check('get from the empty queue', false, $queue->get($jobs));
check('an empty queue is "not found"', Memcached::RES_NOTFOUND, $queue->getResultCode());

finish();
