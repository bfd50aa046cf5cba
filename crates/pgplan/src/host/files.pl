# files.pl PHASE...: puts the files of a bundle where they belong. One process does it all: under emulation each costs a hundredth
# of a second.
#   place     writes every file beside its target, under a name of its own
#   commit    gives them their names: all of them, or those that had theirs are as they were
#   drop      removes what `place` wrote
#   folders   makes those of the list `folders`, a line each: owner, group, mode, path; or gives them to whom they belong
#   early N   both at once for file N, which packages read
# `files` has a line a file: number, owner, group, mode, whether a handler reads it, path; its content is in file.N. `notes` has
# what is written before the first file gets its name: how (> or >>), path, text.
use strict;
umask 077;
my ($list, $new, $old) = ('@PLACING@', '@NEW@', '@OLD@');
my $waiting = "$list$new";
my (@files, @notes);
for (-e 'files' ? lines('files') : ()) {
  my %file;
  @file{qw(number owner group mode kept path)} = split / /, $_, 6;
  push @files, \%file;
}

for my $phase (@ARGV) {
  if ($phase eq 'early') {
    my ($file) = grep { $_->{number} == $ARGV[1] } @files;
    eval { write_new($file); name($file->{path}); 1 } or die $@;
    last;
  }
  if ($phase eq 'drop') { drop(); next }
  if ($phase eq 'folders') { folders(); next }
  eval { $phase eq 'place' ? place() : commit(); 1 } or do { my $why = $@; drop(); die $why };
}

sub lines { my ($path) = @_; open my $file, '<:raw', $path or die "$path: $!\n"; chomp(my @lines = <$file>); @lines }

sub text { my ($path) = @_; open my $file, '<:raw', $path or die "$path: $!\n"; local $/; <$file> // '' }

sub save {
  my ($how, $path, $text) = @_;
  open my $file, "$how:raw", $path or die "$path: $!\n";
  print {$file} $text and close $file or die "$path: $!\n";
}

sub name { my ($path) = @_; rename "$path$new", $path or die "$path: $!\n" }

# make(PATH, MODE): the folder and those above it.
sub make {
  my ($path, $mode) = @_;
  return if -d $path;
  make($path =~ s{/[^/]*$}{}r || '/', $mode);
  mkdir $path or die "$path: $!\n";
  chmod $mode, $path;
}

# with(PATH, TEXT, MODE, UID, GID): a new file, whatever was there.
sub with {
  my ($path, $text, $mode, $uid, $gid) = @_;
  unlink $path;
  save('>', $path, $text);
  chown $uid, $gid, $path or die "$path: $!\n";
  chmod $mode, $path or die "$path: $!\n";
}

# owner_of(PATH, OWNER, GROUP): their numbers.
sub owner_of {
  my ($path, $owner, $group) = @_;
  my $uid = getpwnam $owner // die "$path: there is no user $owner\n";
  my $gid = getgrnam $group // die "$path: there is no group $group\n";
  return ($uid, $gid);
}

sub folders {
  for (-e 'folders' ? lines('folders') : ()) {
    my ($owner, $group, $mode, $path) = split / /, $_, 4;
    my ($uid, $gid) = owner_of($path, $owner, $group);
    make($path, 0755);
    chown $uid, $gid, $path or die "$path: $!\n";
    chmod oct $mode, $path or die "$path: $!\n";
  }
}

sub write_new {
  my ($file) = @_;
  my ($uid, $gid) = owner_of(@{$file}{qw(path owner group)});
  make($file->{path} =~ s{/[^/]*$}{}r || '/', 0755);
  with("$file->{path}$new", text("file.$file->{number}"), oct $file->{mode}, $uid, $gid);
}

# A list of an earlier run must not bring candidates in that are not validated yet. The new one is there before its files are:
# should this end here, the next facts know them.
sub place {
  make($list =~ s{/[^/]*$}{}r, 0755);
  unlink $list;
  save('>', $waiting, join '', map { "$_->{path}\n" } @files);
  write_new($_) for @files;
}

# Files that handlers read are kept as they were. Those that an earlier run kept are older, and stay.
sub keep {
  my ($path) = @_;
  my $kept = "$old$path";
  return if -e $kept || -l $kept || !(-e $path || -l $path);
  if (!-d $old) { mkdir $old, 0700 or die "$old: $!\n" }
  make($kept =~ s{/[^/]*$}{}r, 0700);
  if (-l $path) { symlink readlink $path, $kept or die "$kept: $!\n"; return }
  return unless -f $path;
  my ($mode, $uid, $gid) = (stat $path)[2, 4, 5];
  with($kept, text($path), $mode & 07777, $uid, $gid);
}

# What stands where files belong is read before the first is renamed; after that only a power cut comes between, and the boot
# finishes what it left. A file that got its name before its content was on the disk would be empty after a power cut. The list
# gets its name before they do, and loses it after they did: names reach the disk in order.
sub commit {
  for (lines('notes')) { my ($how, $path, $text) = split / /, $_, 3; save($how, $path, "$text\n") }
  $_->{kept} and keep($_->{path}) for @files;
  my @paths = map { $_->{path} } @files;
  my %old;
  for my $path (@paths) {
    -d $path && !-l $path and die "$path: Is a directory\n";
    # What is no file, like a pipe, is replaced and cannot be put back; to open it might wait for ever.
    next unless -f $path;
    my ($mode, $uid, $gid) = (stat $path)[2, 4, 5];
    $old{$path} = [text($path), $mode & 07777, $uid, $gid];
  }
  sync('/', $list =~ s{/[^/]*$}{}r);
  rename $waiting, $list or die "$list: $!\n";
  my @renamed;
  for my $path (@paths) {
    if (rename "$path$new", $path) { push @renamed, $path; next }
    my $why = "$path: $!\n";
    for my $path (@renamed) {
      if (!$old{$path}) { unlink $path; next }
      eval { with("$path$new", @{$old{$path}}); name($path); 1 } or die "$why$@";
    }
    sync('/');
    die $why;
  }
  unlink $list;
  print map { qq({"event":"done","kind":"file","item":"$_"}\n) } @paths;
}

sub sync { system('sync', '-f', @_) == 0 or die "sync failed\n" }

sub drop { unlink map({ "$_->{path}$new" } @files), $waiting, $list }
