<?php
// Gets a URL with curl, as an app would, and prints the answer.
$call = curl_init($argv[1]);
curl_setopt($call, CURLOPT_RETURNTRANSFER, true);
$answer = curl_exec($call);
if ($answer === false) {
    fwrite(STDERR, curl_error($call) . "\n");
    exit(1);
}
echo $answer;
