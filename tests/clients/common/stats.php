<?php
// One form of `stats` through a PHP client, for stats_forms.py: prints JSON, the statistics as the client gives them for its one server,
// true or false where it gives that, or null where it refuses to send the form. It judges nothing.
// Usage: php stats.php memcache|memcached HOST PORT [FORM]

declare(strict_types=1);

const EXIT_SKIPPED = 77;

[, $extension, $host, $port] = $argv;
$form = $argv[4] ?? null;
if (!extension_loaded($extension)) {
    echo "the PHP extension $extension is not installed\n";
    exit(EXIT_SKIPPED);
}

if ($extension === 'memcached') {
    $client = new Memcached();
    $client->addServer($host, (int) $port);
    $all = $form === null ? $client->getStats() : $client->getStats($form);
} else {
    $client = new Memcache;
    $client->connect($host, (int) $port);
    $all = @($form === null ? $client->getExtendedStats() : $client->getExtendedStats($form));
    $own = @($form === null ? $client->getStats() : $client->getStats($form));
    $names = fn ($stats) => is_array($stats) ? array_keys($stats) : $stats;
    if ($all !== false && $names($own) !== $names($all["$host:$port"])) {
        fwrite(STDERR, 'getStats and getExtendedStats differ: ' . json_encode([$own, $all]));
        exit(1);
    }
    if (str_contains(error_get_last()['message'] ?? '', 'Invalid stats type')) {
        $all = ["$host:$port" => null];
    }
}
// An object even where all names are numbers, and numbers as they came.
$stats = $all["$host:$port"] ?? null;
echo json_encode(is_array($stats) ? (object) $stats : $stats, JSON_THROW_ON_ERROR | JSON_PRESERVE_ZERO_FRACTION), "\n";
