<?php
// Where the visitor stands: what the ledger says, and as long as it says nothing, what the gate said.

declare(strict_types=1);
require __DIR__ . '/../sale.php';

// Asks again by itself where scripts run; elsewhere there is the link.
const LOOK_AGAIN = <<<'HTML'
    <script>
    const look = async () => {
      try {
        const answer = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
        const main = document.querySelector("main");
        if (answer.querySelector("main").innerHTML !== main.innerHTML) {
          main.replaceChildren(...answer.querySelector("main").children);
          document.title = answer.title;
        }
      } catch { /* the next look may have an answer */ }
      if (document.querySelector(".again")) setTimeout(look, 1000);
    };
    setTimeout(look, 500);
    </script>
    HTML;

$visitor = visitor();
if ($visitor === null || !is_file(VISITORS . "/$visitor")) {
    redirect('/');
}
$standing = standing(file_get_contents(VISITORS . "/$visitor"));
$lines = ledger_lines(file_get_contents(LEDGER));
// The first line of a visitor counts; a later one is `again`.
$line = array_search($visitor, array_column($lines, 1), true);
if ($line !== false) {
    [$outcome, $place] = explode('-', $lines[$line][2]);
    if ($outcome === 'ticket') {
        $tickets = TICKETS;
        page("Ticket $place", <<<HTML
            <h1>You are in</h1>
            <p class="ticket"><span>Ticket</span> <strong id="ticket">$place</strong> <span>of $tickets</span></p>
            <p class="when">Saturday, 20:00 · doors 19:00</p>
            <p>It is yours. Show this page at the door.</p>
            HTML);
    } else {
        page('No ticket left', <<<HTML
            <h1>Just missed</h1>
            <p>You were number <strong id="place">$place</strong> in the line. All tickets went to those before you.</p>
            HTML);
    }
    exit;
}

// All that were let in are in the ledger, so who is not in it was not let in.
$complete = count($lines) >= GATE;
match (true) {
    $standing === 'refused', $standing === 'refused-later' && $complete => redirect('/sold-out.html'),
    $standing === 'admitted' => page('In the line', <<<HTML
        <h1>You are in the line</h1>
        <p>Your place is kept. Your number shows here as soon as it is your turn.</p>
        <p class="again"><a href="/place.php">Look again</a></p>
        HTML, LOOK_AGAIN),
    $standing === 'refused-later' => page('Waiting for an answer', <<<HTML
        <h1>The line is full</h1>
        <p>Your first try had no answer. If it was counted, your number shows here.</p>
        <p class="again"><a href="/place.php">Look again</a></p>
        HTML, LOOK_AGAIN),
    default => page('No answer', <<<HTML
        <h1>There was no answer</h1>
        <p>It may be that you are in the line already. Trying again does no harm: nobody gets two tickets.</p>
        <form method="post" action="/buy.php"><button>Try again</button></form>
        HTML),
};
