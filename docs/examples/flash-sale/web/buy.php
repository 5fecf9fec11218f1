<?php
// Puts the visitor into the line, once. RingQ counts who is in; above the gate it answers NOT_STORED.

declare(strict_types=1);
require __DIR__ . '/../sale.php';

$visitor = visitor();
if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
    redirect('/');
}
if ($visitor === null) {
    // The browser has to know who it is before the put: a visitor whose answer is lost must come back as the same one.
    redirect('/?cookie');
}

$file = visitor_file($visitor);
$lines = stream_get_contents($file);
if (in_array(standing($lines), ['new', 'unanswered'], true)) {
    // Written first: if this process dies behind the put, the file says that nobody knows.
    $lines .= "asked\n";
    fwrite($file, "asked\n");
    fflush($file);

    $queue = queue();
    $answer = match (true) {
        $queue->set(QUEUE, $visitor) => "admitted\n",
        $queue->getResultCode() === Memcached::RES_NOTSTORED => "refused\n",
        // No answer, or one that is neither: it may be in the line and may be not.
        default => '',
    };
    $lines .= $answer;
    fwrite($file, $answer);
}
fclose($file);
redirect(standing($lines) === 'refused' ? '/sold-out.html' : '/place.php');
