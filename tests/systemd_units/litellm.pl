#!/usr/bin/perl
# As much of LiteLLM as its unit can see: config file, environment, --run_gunicorn with LISTEN_FDS, HUP, TERM, a port.
use strict; use warnings; use IO::Socket::INET;
my %o; for my $i (0 .. $#ARGV) { $o{$ARGV[$i]} = $ARGV[$i + 1] // '' if $ARGV[$i] =~ /^--/ }
my $path = $o{'--config'};
sub key { open(my $f, '<', $path) or die "$path: $!\n"; local $/; my ($k) = <$f> =~ /api_key: "?([^"\n]+)/; die "no api_key\n" unless $k; $k }
if (exists $o{'--validate_config'}) { exit 1 if key() =~ /refused/; print "config OK (1 models)\n"; exit 0 }
die "not --run_gunicorn\n" unless exists $o{'--run_gunicorn'};
my ($key, $hup, $term) = (key(), 0, 0);
$SIG{HUP} = sub { $hup = 1 }; $SIG{TERM} = sub { $term = 1 };
my $socket;
if (($ENV{LISTEN_FDS} // 0) >= 1 && $ENV{LISTEN_PID} == $$) { $socket = IO::Socket::INET->new_from_fd(3, '+<') }
else { $socket = IO::Socket::INET->new(LocalAddr => $o{'--host'}, LocalPort => $o{'--port'}, Listen => 128, ReuseAddr => 1) }
die "no socket: $!\n" unless $socket;
until ($term) {
  if ($hup) { $key = key(); $hup = 0 }
  my $bits = ''; vec($bits, fileno($socket), 1) = 1;
  next unless select($bits, undef, undef, 0.2) > 0;
  my $client = $socket->accept or next;
  while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
  my $body = "key=$key master=$ENV{LITELLM_MASTER_KEY}";
  print $client "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
  close $client;
}
