# Completion for famez-client; made by `make reference` from its options.

set -g __famez_client_takes 'famez-client -S' 'famez-client --socket' 'famez-client -f' 'famez-client --fabric' 'famez-client/dump -t' 'famez-client/dump --timeout' 'famez-client/ping -c' 'famez-client/ping --count' 'famez-client/ping -i' 'famez-client/ping --interval' 'famez-client/ping -t' 'famez-client/ping --timeout' 'famez-client/send -t' 'famez-client/send --timeout' 'famez-client/spoof -t' 'famez-client/spoof --timeout' 'famez-client/link -t' 'famez-client/link --timeout' 'famez-client/link -d' 'famez-client/link --destination' 'famez-client/rfc -t' 'famez-client/rfc --timeout' 'famez-client/rfc --ttc' 'famez-client/listen -c' 'famez-client/listen --count' 'famez-client/watch -c' 'famez-client/watch --count' 'famez-client/trace -c' 'famez-client/trace --count'
set -g __famez_client_paths famez-client famez-client/help famez-client/who famez-client/dump famez-client/ping famez-client/send famez-client/spoof famez-client/withdraw famez-client/link famez-client/rfc famez-client/ring famez-client/listen famez-client/watch famez-client/trace famez-client/quit famez-client/int

# Prints where on the line the cursor is: the path of subcommands, and the number of the argument there, such as
# "famezctl/fault/add 2"; then the control socket and the fabric, if they are named.
function __famez_client_where
    # --option=value as two words.
    set -l words (string replace -r -- '^(--[\w-]+)=' '$1'\n (commandline -opc))
    set -l path famez-client
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
        else if contains -- "$path $word" $__famez_client_takes
            set pending $word
        else if string match -q -- '-*' $word
            continue
        else if contains -- "$path/$word" $__famez_client_paths
            set path $path/$word
        else
            test famez-client = famezctl -a $place = 1; and set fabric $word
            set place (math $place + 1)
        end
    end
    if test famez-client = famez-client -a -n "$control"
        # It is told the fabric's own socket; famezctl's is beside it.
        set fabric (string replace -r '^(.*/)?(.*)\.sock$' '$2' $control)
        set control (dirname $control)/control.sock
    end
    printf '%s\n' "$path $place" $path "$control" "$fabric"
end

function __famez_client_at
    set -l where (__famez_client_where)
    test "$where[1]" = "$argv"
end

function __famez_client_in
    set -l where (__famez_client_where)
    test "$where[2]" = "$argv"
end

# The words that a running famezd knows: fabrics, or the ids and names of a fabric's peers. A name is written by a guest,
# so none is taken but of harmless characters.
function __famez_client_ask
    set -l where (__famez_client_where)
    set -l socket
    test -n "$where[3]"; and set socket -s $where[3]
    test $argv[1] = peers; and set argv peers $where[4]
    famezctl $socket --json $argv 2>/dev/null | sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
end

complete -c famez-client -f
complete -c famez-client -n '__famez_client_in famez-client' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client' -s S -l socket -r -F -d 'the fabric\'s socket'
complete -c famez-client -n '__famez_client_in famez-client' -s f -l fabric -x -a '(__famez_client_ask status)' -d 'the fabric\'s name, if famezd runs here'
complete -c famez-client -n '__famez_client_in famez-client' -l pci -d 'in a virtual machine: its ivshmem device, by its PCI address if it has several'
complete -c famez-client -n '__famez_client_in famez-client' -l json -d 'print results as JSON, one a line'
complete -c famez-client -n '__famez_client_in famez-client' -l keep-going -d 'run all of a script, whatever fails in it'
complete -c famez-client -n '__famez_client_in famez-client' -l version -d 'show program\'s version number and exit'
complete -c famez-client -n '__famez_client_at famez-client 1' -a help -d 'Lists the commands, or explains one.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a who -d 'Lists who is on the fabric; without a mailbox, whom we can ring.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a dump -d 'Shows what this client knows of itself and its peers; with DEST, asks that switch for its ports.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a ping -d 'Sends `ping`, and prints how long each `pong` takes.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a send -d 'Sends TEXT, and waits until it is taken.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a spoof -d 'Sends TEXT from the slot of another peer, SRC, as if that had sent it.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a withdraw -d 'Takes back our last message, if nobody has taken it: others can be sent then.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a link -d 'Sends `Link CTL DIRECTIVE`, such as Peer-Attribute, and waits for its ACK or NAK.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a rfc -d 'Asks the fabric\'s manager to configure us (Link RFC), and prints the conversation.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a ring -d 'Rings DEST on one vector (default: 0) or on all.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a listen -d 'Prints the messages that come, until Ctrl-C.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a watch -d 'Prints the doorbells that come, with their times, until Ctrl-C; messages, too.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a trace -d 'Prints the messages of all peers, and how long each stood until it was taken, until Ctrl-C.'
complete -c famez-client -n '__famez_client_at famez-client 1' -a quit -d 'Leaves the fabric (so does Ctrl-D).'
complete -c famez-client -n '__famez_client_at famez-client 1' -a int -d 'Rings DEST on one vector (default: 0) or on all.'
complete -c famez-client -n '__famez_client_in famez-client/help' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_at famez-client/help 1' -a 'help who dump ping send spoof withdraw link rfc ring listen watch trace quit' -d 'COMMAND'
complete -c famez-client -n '__famez_client_in famez-client/who' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/dump' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/dump' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_at famez-client/dump 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_in famez-client/ping' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/ping' -s c -l count -x -d 'how many; 0: until Ctrl-C (default: 1)'
complete -c famez-client -n '__famez_client_in famez-client/ping' -s i -l interval -x -d 'seconds between two (default: 1)'
complete -c famez-client -n '__famez_client_in famez-client/ping' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_at famez-client/ping 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_in famez-client/send' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/send' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_at famez-client/send 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_in famez-client/spoof' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/spoof' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_at famez-client/spoof 1' -a '(__famez_client_ask peers) switch' -d 'SRC'
complete -c famez-client -n '__famez_client_at famez-client/spoof 2' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_in famez-client/withdraw' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/link' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/link' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_in famez-client/link' -s d -l destination -x -a '(__famez_client_ask peers) all others switch' -d 'whom to tell (default: switch)'
complete -c famez-client -n '__famez_client_in famez-client/rfc' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/rfc' -s t -l timeout -x -d 'how long to wait (default: 5.0)'
complete -c famez-client -n '__famez_client_in famez-client/rfc' -l ttc -x -d 'time to configure, in microseconds'
complete -c famez-client -n '__famez_client_at famez-client/rfc 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_in famez-client/ring' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_at famez-client/ring 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_at famez-client/ring 2' -a all -d 'VECTOR|all'
complete -c famez-client -n '__famez_client_in famez-client/listen' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/listen' -s c -l count -x -d 'end after so many (default: with Ctrl-C)'
complete -c famez-client -n '__famez_client_in famez-client/watch' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/watch' -s c -l count -x -d 'end after so many (default: with Ctrl-C)'
complete -c famez-client -n '__famez_client_in famez-client/trace' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/trace' -s c -l count -x -d 'end after so many (default: with Ctrl-C)'
complete -c famez-client -n '__famez_client_in famez-client/quit' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_in famez-client/int' -s h -l help -d 'show this help message and exit'
complete -c famez-client -n '__famez_client_at famez-client/int 1' -a '(__famez_client_ask peers) all others switch' -d 'DEST'
complete -c famez-client -n '__famez_client_at famez-client/int 2' -a all -d 'VECTOR|all'
