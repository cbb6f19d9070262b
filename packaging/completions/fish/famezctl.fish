# Completion for famezctl; made by `make reference` from its options.

set -g __famezctl_takes 'famezctl -s' 'famezctl --socket' 'famezctl/watch -n' 'famezctl/fault/add --vector' 'famezctl/fault/add --drop' 'famezctl/fault/add --delay' 'famezctl/fault/add --duplicate' 'famezctl/fault/add --corrupt' 'famezctl/fault/add --seed' 'famezctl/qemu --port' 'famezctl/libvirt --port' 'famezctl/libvirt --name' 'famezctl/attach --port' 'famezctl/attach -c' 'famezctl/attach --connect'
set -g __famezctl_paths famezctl famezctl/status famezctl/watch famezctl/peers famezctl/doorbells famezctl/switch famezctl/reload famezctl/check famezctl/diff famezctl/schema famezctl/restart famezctl/kick famezctl/fault famezctl/fault/add famezctl/fault/list famezctl/fault/clear famezctl/qemu famezctl/libvirt famezctl/attach

# Prints where on the line the cursor is: the path of subcommands, and the number of the argument there, such as
# "famezctl/fault/add 2"; then the control socket and the fabric, if they are named.
function __famezctl_where
    # --option=value as two words.
    set -l words (string replace -r -- '^(--[\w-]+)=' '$1'\n (commandline -opc))
    set -l path famezctl
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
        else if contains -- "$path $word" $__famezctl_takes
            set pending $word
        else if string match -q -- '-*' $word
            continue
        else if contains -- "$path/$word" $__famezctl_paths
            set path $path/$word
        else
            test famezctl = famezctl -a $place = 1; and set fabric $word
            set place (math $place + 1)
        end
    end
    if test famezctl = famez-client -a -n "$control"
        # It is told the fabric's own socket; famezctl's is beside it.
        set fabric (string replace -r '^(.*/)?(.*)\.sock$' '$2' $control)
        set control (dirname $control)/control.sock
    end
    printf '%s\n' "$path $place" $path "$control" "$fabric"
end

function __famezctl_at
    set -l where (__famezctl_where)
    test "$where[1]" = "$argv"
end

function __famezctl_in
    set -l where (__famezctl_where)
    test "$where[2]" = "$argv"
end

# The words that a running famezd knows: fabrics, or the ids and names of a fabric's peers. A name is written by a guest,
# so none is taken but of harmless characters.
function __famezctl_ask
    set -l where (__famezctl_where)
    set -l socket
    test -n "$where[3]"; and set socket -s $where[3]
    test $argv[1] = peers; and set argv peers $where[4]
    famezctl $socket --json $argv 2>/dev/null | sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
end

complete -c famezctl -f
complete -c famezctl -n '__famezctl_in famezctl' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl' -s s -l socket -r -F -d 'famezd\'s control socket (default: that of the system\'s)'
complete -c famezctl -n '__famezctl_in famezctl' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_in famezctl' -l version -d 'show program\'s version number and exit'
complete -c famezctl -n '__famezctl_at famezctl 1' -a status -d 'all fabrics'
complete -c famezctl -n '__famezctl_at famezctl 1' -a watch -d 'the same, or one fabric\'s peers and how they ring, until Ctrl-C'
complete -c famezctl -n '__famezctl_at famezctl 1' -a peers -d 'who is on a fabric'
complete -c famezctl -n '__famezctl_at famezctl 1' -a doorbells -d 'who rang whom, and how often'
complete -c famezctl -n '__famezctl_at famezctl 1' -a switch -d 'what a fabric\'s switch knows: with genz its ports and who is on them'
complete -c famezctl -n '__famezctl_at famezctl 1' -a reload -d 'read the configuration anew; with any mistake in it nothing changes'
complete -c famezctl -n '__famezctl_at famezctl 1' -a check -d 'find all mistakes in the configuration; nothing is changed'
complete -c famezctl -n '__famezctl_at famezctl 1' -a diff -d 'what a reload would change; nothing is changed'
complete -c famezctl -n '__famezctl_at famezctl 1' -a schema -d 'the JSON Schemas of the configuration\'s files, for editors'
complete -c famezctl -n '__famezctl_at famezctl 1' -a restart -d 'have a new process serve a fabric; peers notice nothing, unless settings wait that disconnect them'
complete -c famezctl -n '__famezctl_at famezctl 1' -a kick -d 'disconnect a peer from a fabric'
complete -c famezctl -n '__famezctl_at famezctl 1' -a fault -d 'have doorbells and messages fail by rules, on a relayed fabric'
complete -c famezctl -n '__famezctl_at famezctl 1' -a qemu -d 'QEMU\'s arguments for a machine on a fabric'
complete -c famezctl -n '__famezctl_at famezctl 1' -a libvirt -d 'what puts a libvirt domain on a fabric, to paste by `virsh edit`'
complete -c famezctl -n '__famezctl_at famezctl 1' -a attach -d 'put a libvirt domain on a fabric, at once if it runs'
complete -c famezctl -n '__famezctl_in famezctl/status' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/status' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_in famezctl/watch' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/watch' -s n -x -d 'how often (default: 2)'
complete -c famezctl -n '__famezctl_in famezctl/watch' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/watch 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/peers' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/peers' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/peers 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/doorbells' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/doorbells' -l list -d 'as a list, also where a matrix is not too wide'
complete -c famezctl -n '__famezctl_in famezctl/doorbells' -l vectors -d 'also on which vector each was rung'
complete -c famezctl -n '__famezctl_in famezctl/doorbells' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/doorbells 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/switch' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/switch' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/switch 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/reload' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/reload' -l force -d 'remove also fabrics that have peers, and disconnect them'
complete -c famezctl -n '__famezctl_in famezctl/reload' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_in famezctl/check' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/check' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/check 1' -F -d 'a famezd.yaml (default: what the running famezd reads)'
complete -c famezctl -n '__famezctl_in famezctl/diff' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/diff' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_in famezctl/schema' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/schema' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/schema 1' -a 'main fabric' -d 'of famezd.yaml, or of a file in fabrics.d (default: both)'
complete -c famezctl -n '__famezctl_in famezctl/restart' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/restart' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/restart 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/kick' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/kick' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/kick 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_at famezctl/kick 2' -a '(__famezctl_ask peers)' -d 'its id or its name, as in the list of `peers`'
complete -c famezctl -n '__famezctl_in famezctl/fault' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/fault' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/fault 1' -a add -d 'add a rule; prints its id'
complete -c famezctl -n '__famezctl_at famezctl/fault 1' -a list -d 'the rules, and how often each struck'
complete -c famezctl -n '__famezctl_at famezctl/fault 1' -a clear -d 'take a rule away, or all'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l vector -x -d 'on which vector; * (the default) is all'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l drop -x -d 'lose doorbells, each by this probability: 0.1, or 10%'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l delay -x -d 'hold them up: 5ms, 1ms..5ms (evenly), 5ms+-1ms (normally)'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l duplicate -x -d 'double them, each by this probability'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l block -d 'lose them all'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l corrupt -x -d 'change some bytes of messages, of each by this probability'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l message -d 'with --drop: messages are lost, as if they had been taken'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l seed -x -d 'of the rule\'s chance: with the same one, the same fates'
complete -c famezctl -n '__famezctl_in famezctl/fault/add' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/fault/add 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_at famezctl/fault/add 2' -a '(__famezctl_ask peers) switch' -d 'who rings: a peer\'s id, switch, or * for all'
complete -c famezctl -n '__famezctl_at famezctl/fault/add 3' -a '(__famezctl_ask peers) switch' -d 'who is rung, in the same way'
complete -c famezctl -n '__famezctl_in famezctl/fault/list' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/fault/list' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/fault/list 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/fault/clear' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/fault/clear' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/fault/clear 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/qemu' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/qemu' -l port -x -d 'at this port, which has a socket of its own (pins:)'
complete -c famezctl -n '__famezctl_in famezctl/qemu' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/qemu 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/libvirt' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/libvirt' -l port -x -d 'at this port, which has a socket of its own (pins:)'
complete -c famezctl -n '__famezctl_in famezctl/libvirt' -l name -x -d 'of the device, for libvirt (default: famez-FABRIC)'
complete -c famezctl -n '__famezctl_in famezctl/libvirt' -l commandline -d 'as QEMU\'s arguments (qemu:commandline), where <shmem> will not do'
complete -c famezctl -n '__famezctl_in famezctl/libvirt' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/libvirt 1' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
complete -c famezctl -n '__famezctl_in famezctl/attach' -s h -l help -d 'show this help message and exit'
complete -c famezctl -n '__famezctl_in famezctl/attach' -l port -x -d 'at this port, which has a socket of its own (pins:)'
complete -c famezctl -n '__famezctl_in famezctl/attach' -l config -d 'only from its next start on'
complete -c famezctl -n '__famezctl_in famezctl/attach' -s c -l connect -x -d 'which libvirt (default: as virsh chooses)'
complete -c famezctl -n '__famezctl_in famezctl/attach' -l json -d 'print JSON'
complete -c famezctl -n '__famezctl_at famezctl/attach 2' -a '(__famezctl_ask status)' -d 'the fabric\'s name'
