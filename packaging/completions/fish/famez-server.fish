# Completion for famez-server; made by `make reference` from its options.

set -g __famez_server_takes 'famez-server -p' 'famez-server -S' 'famez-server -M' 'famez-server -m' 'famez-server -l' 'famez-server -n' 'famez-server --nClients' 'famez-server --personality' 'famez-server -L' 'famez-server --logfile'
set -g __famez_server_paths famez-server

# Prints where on the line the cursor is: the path of subcommands, and the number of the argument there, such as
# "famezctl/fault/add 2"; then the control socket and the fabric, if they are named.
function __famez_server_where
    # --option=value as two words.
    set -l words (string replace -r -- '^(--[\w-]+)=' '$1'\n (commandline -opc))
    set -l path famez-server
    set -l pending ''
    set -l control ''
    set -l fabric ''
    set -l place 1
    for word in $words[2..]
        if test -n "$pending"
            switch $pending
                case -s --socket -S
                    set control $word
                case -f --fabric
                    set fabric $word
            end
            set pending ''
        else if contains -- "$path $word" $__famez_server_takes
            set pending $word
        else if string match -q -- '-*' $word
            continue
        else if contains -- "$path/$word" $__famez_server_paths
            set path $path/$word
        else
            test famez-server = famezctl -a $place = 1; and set fabric $word
            set place (math $place + 1)
        end
    end
    if test famez-server = famez-client -a -n "$control"
        # It is told the fabric's own socket; famezctl's is beside it.
        set fabric (string replace -r '^(.*/)?(.*)\.sock$' '$2' $control)
        set control (dirname $control)/control.sock
    end
    printf '%s\n' "$path $place" $path "$control" "$fabric"
end

function __famez_server_at
    set -l where (__famez_server_where)
    test "$where[1]" = "$argv"
end

function __famez_server_in
    set -l where (__famez_server_where)
    test "$where[2]" = "$argv"
end

# The words that a running famezd knows: fabrics, or the ids and names of a fabric's peers. A name is written by a guest,
# so none is taken but of harmless characters.
function __famez_server_ask
    set -l where (__famez_server_where)
    set -l socket
    test -n "$where[3]"; and set socket -s $where[3]
    test $argv[1] = peers; and set argv peers $where[4]
    famezctl $socket --json $argv 2>/dev/null | sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
end

complete -c famez-server -f
complete -c famez-server -n '__famez_server_in famez-server' -s h -l help -d 'show this help message and exit'
complete -c famez-server -n '__famez_server_in famez-server' -s v -d 'log joins and departures, too, not only what is wrong'
complete -c famez-server -n '__famez_server_in famez-server' -s F -d 'stay in the foreground (default: become a daemon)'
complete -c famez-server -n '__famez_server_in famez-server' -s p -r -F -d 'the daemon\'s PID file (default: /var/run/ivshmem-server.pid)'
complete -c famez-server -n '__famez_server_in famez-server' -s S -r -F -d 'the socket to listen on (default: /tmp/ivshmem_socket)'
complete -c famez-server -n '__famez_server_in famez-server' -s M -x -d 'the POSIX shared memory, one that is there is used (default: ivshmem)'
complete -c famez-server -n '__famez_server_in famez-server' -s m -x -a '(__fish_complete_directories)' -d 'a directory, such as one of hugetlbfs, for shared memory without a name'
complete -c famez-server -n '__famez_server_in famez-server' -s l -x -d 'bytes of shared memory, or with K, M, G or T, rounded up to a power of two (default: 4M)'
complete -c famez-server -n '__famez_server_in famez-server' -s n -x -d 'each peer\'s vectors (default: 1)'
complete -c famez-server -n '__famez_server_in famez-server' -l nClients -x -d 'how many peers there may be at once (default: 256; genz: 14)'
complete -c famez-server -n '__famez_server_in famez-server' -l personality -x -a 'plain genz' -d 'what the switch does: plain is nothing, as the stock server; genz answers Gen-Z messages'
complete -c famez-server -n '__famez_server_in famez-server' -l norecycle -d 'genz: tell of joins and departures, and give no id again that a peer has seen depart'
complete -c famez-server -n '__famez_server_in famez-server' -l noPFM -d 'genz: the switch is not the fabric\'s manager'
complete -c famez-server -n '__famez_server_in famez-server' -s s -l silent -d 'genz: lay out the mailbox, and be no peer'
complete -c famez-server -n '__famez_server_in famez-server' -s L -l logfile -r -F -d 'add the log to FILE'
complete -c famez-server -n '__famez_server_in famez-server' -l version -d 'show program\'s version number and exit'
