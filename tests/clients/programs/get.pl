# Gets a URL with LWP, as an app would, and prints the answer.
use strict;
use warnings;
use LWP::UserAgent;

my $answer = LWP::UserAgent->new->get($ARGV[0]);
die $answer->status_line, "\n" unless $answer->is_success;
print $answer->decoded_content;
