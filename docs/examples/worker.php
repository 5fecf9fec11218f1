<?php
// A worker that loses no job: PHP with pecl memcached (libmemcached). A job leaves its queue when it is done; if this process dies before,
// or gives it back, the next worker gets it. Ends when there was nothing to do for a second.
// Usage: php worker.php HOST PORT QUEUE

declare(strict_types=1);

if (!extension_loaded('memcached')) {
    fwrite(STDERR, "the PHP extension memcached is not installed\n");
    exit(77);
}
[, $host, $port, $queue] = $argv;

$client = new Memcached();
$client->addServer($host, (int) $port);
// Longer than the server is asked to wait, ms.
$client->setOption(Memcached::OPT_POLL_TIMEOUT, 30_000);

while (true) {
    $job = $client->get("$queue/open/t=1000");
    if ($job === false) {
        if ($client->getResultCode() !== Memcached::RES_NOTFOUND) {
            fail('reading', $client);
        }
        break;
    }
    try {
        work($job);
    } catch (RuntimeException $problem) {
        $client->get("$queue/abort");
        echo "gave back $job: {$problem->getMessage()}\n";
        continue;
    }
    // The answer is END, which a get takes for "not found". Anything else: the job is not confirmed, and comes again.
    $client->get("$queue/close");
    if ($client->getResultCode() !== Memcached::RES_NOTFOUND) {
        fail('confirming', $client);
    }
    echo "done $job\n";
}

function fail(string $what, Memcached $client): never
{
    fwrite(STDERR, "$what failed: {$client->getResultMessage()}\n");
    exit(1);
}

/** What there is to do. To show what happens then, it fails once with a job that is called flaky. */
function work(string $job): void
{
    static $failed = [];
    if (str_starts_with($job, 'flaky') && !isset($failed[$job])) {
        $failed[$job] = true;
        throw new RuntimeException('try again');
    }
}
