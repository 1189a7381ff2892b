#!/usr/bin/perl
# As much of LiteLLM as its unit and its config can see: config file, environment, --run_gunicorn with LISTEN_FDS, HUP, TERM, a
# port, and /model/info for who has the master key of its environment. It dies of a key that says so.
use strict; use warnings; use IO::Socket::INET;
my %o; for my $i (0 .. $#ARGV) { $o{$ARGV[$i]} = $ARGV[$i + 1] // '' if $ARGV[$i] =~ /^--/ }
my $path = $o{'--config'};
sub key { open(my $f, '<', $path) or die "$path: $!\n"; local $/; my ($k) = <$f> =~ /api_key: "?([^"\n]+)/; die "no api_key\n" unless $k; $k }
if (exists $o{'--validate_config'}) { exit 1 if key() =~ /refused/; print "config OK (1 models)\n"; exit 0 }
die "not --run_gunicorn\n" unless exists $o{'--run_gunicorn'};
sub snapshot { open(my $f, '<', $path) or die "$path: $!\n"; local $/; my ($s) = <$f> =~ /snapshot: "?([^"}\n]+)/; $s // '' }
my ($key, $snapshot, $hup, $term) = (key(), snapshot(), 0, 0);
die "a key to die of\n" if $key =~ /dies/;
$SIG{HUP} = sub { $hup = 1 }; $SIG{TERM} = sub { $term = 1 };
my $socket;
if (($ENV{LISTEN_FDS} // 0) >= 1 && $ENV{LISTEN_PID} == $$) { $socket = IO::Socket::INET->new_from_fd(3, '+<') }
else { $socket = IO::Socket::INET->new(LocalAddr => $o{'--host'}, LocalPort => $o{'--port'}, Listen => 128, ReuseAddr => 1) }
die "no socket: $!\n" unless $socket;
until ($term) {
  if ($hup) { ($key, $snapshot, $hup) = (key(), snapshot(), 0) }
  my $bits = ''; vec($bits, fileno($socket), 1) = 1;
  next unless select($bits, undef, undef, 0.2) > 0;
  my $client = $socket->accept or next;
  my $asked = <$client> // ''; my $bearer = '';
  while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/; $bearer = $1 if $line =~ /^authorization: Bearer (\S+)/i }
  my ($status, $body) = ('200 OK', "key=$key master=$ENV{LITELLM_MASTER_KEY}");
  if ($asked =~ m{ /model/info }) { $body = qq({"data":[{"model_info":{"snapshot":"$snapshot"}}]}) }
  if ($asked =~ m{ /model/info } && $bearer ne $ENV{LITELLM_MASTER_KEY}) { ($status, $body) = ('401 Unauthorized', '') }
  print $client "HTTP/1.1 $status\r\nConnection: close\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
  close $client;
}
