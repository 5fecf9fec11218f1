<?php
// The PHP session of MemcacheQ's documentation, call by call: four puts into `demoqueue1`, three gets. Whoever learned
// MemcacheQ from it must see the same here. The queue's name is the documentation's, so the script drops that queue first.
// Usage: php memcacheq_documentation.php HOST PORT

declare(strict_types=1);
require __DIR__ . '/common/checks.php';

[$host, $port] = server_arguments();
require_extension('memcache');

raw_request($host, $port, "delete demoqueue1\r\nquit\r\n", null);

$memcache_obj = new Memcache;
check('connect', true, $memcache_obj->connect($host, $port));
foreach ([1, 2, 3, 4] as $n) {
    check("set $n", true, $memcache_obj->set('demoqueue1', "message body here $n", MEMCACHE_COMPRESSED, 0));
}
foreach ([1, 2, 3] as $n) {
    check("get $n in order", "message body here $n", $memcache_obj->get('demoqueue1'));
}
check('four put, three taken', '4/3', queue_counts($host, $port, 'demoqueue1'));
check('one is left', "message body here 4", $memcache_obj->get('demoqueue1'));
check('then the queue is empty', false, $memcache_obj->get('demoqueue1'));
check('close', true, $memcache_obj->close());

// The same page's function style.
$memcache_obj = memcache_connect($host, $port);
check('memcache_set', true, memcache_set($memcache_obj, 'demoqueue1', 'message body here', 0, 0));
check('memcache_get', 'message body here', memcache_get($memcache_obj, 'demoqueue1'));
check('memcache_delete drops the queue', true, memcache_delete($memcache_obj, 'demoqueue1'));
check('the dropped queue is not listed', null, queue_counts($host, $port, 'demoqueue1'));
memcache_close($memcache_obj);

finish();
