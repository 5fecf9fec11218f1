<?php
// The front door: what there is, and a button.

declare(strict_types=1);
require __DIR__ . '/../sale.php';

$visitor = visitor();
if ($visitor === null) {
    welcome();
} elseif (is_file(VISITORS . "/$visitor")) {
    redirect('/place.php');
}
$tickets = TICKETS;
$note = isset($_GET['cookie']) ? '<p role="alert">Your place in the line is kept in a cookie. Please allow it, and press the button again.</p>' : '';
page('Tickets', <<<HTML
    <h1>One night at the Gasworks</h1>
    <p class="when">Saturday, 20:00 · doors 19:00 · $tickets tickets</p>
    $note
    <form method="post" action="/buy.php"><button>Buy a ticket</button></form>
    <p class="small">First come, first served. One ticket for each visitor.</p>
    HTML);
