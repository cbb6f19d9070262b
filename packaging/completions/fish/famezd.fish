# Completion for famezd; made by `make reference` from its options.

set -g __famezd_takes 'famezd -c' 'famezd --config' 'famezd --fabric' 'famezd --pidfile' 'famezd --logfile'
set -g __famezd_paths famezd

# Prints where on the line the cursor is: the path of subcommands, and the number of the argument there, such as
# "famezctl/fault/add 2"; then the control socket and the fabric, if they are named.
function __famezd_where
    # --option=value as two words.
    set -l words (string replace -r -- '^(--[\w-]+)=' '$1'\n (commandline -opc))
    set -l path famezd
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
        else if contains -- "$path $word" $__famezd_takes
            set pending $word
        else if string match -q -- '-*' $word
            continue
        else if contains -- "$path/$word" $__famezd_paths
            set path $path/$word
        else
            test famezd = famezctl -a $place = 1; and set fabric $word
            set place (math $place + 1)
        end
    end
    if test famezd = famez-client -a -n "$control"
        # It is told the fabric's own socket; famezctl's is beside it.
        set fabric (string replace -r '^(.*/)?(.*)\.sock$' '$2' $control)
        set control (dirname $control)/control.sock
    end
    printf '%s\n' "$path $place" $path "$control" "$fabric"
end

function __famezd_at
    set -l where (__famezd_where)
    test "$where[1]" = "$argv"
end

function __famezd_in
    set -l where (__famezd_where)
    test "$where[2]" = "$argv"
end

# The words that a running famezd knows: fabrics, or the ids and names of a fabric's peers. A name is written by a guest,
# so none is taken but of harmless characters.
function __famezd_ask
    set -l where (__famezd_where)
    set -l socket
    test -n "$where[3]"; and set socket -s $where[3]
    test $argv[1] = peers; and set argv peers $where[4]
    famezctl $socket --json $argv 2>/dev/null | sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
end

complete -c famezd -f
complete -c famezd -n '__famezd_in famezd' -s h -l help -d 'show this help message and exit'
complete -c famezd -n '__famezd_in famezd' -s c -l config -r -F -d 'the settings (default: /etc/famez/famezd.yaml)'
complete -c famezd -n '__famezd_in famezd' -l check -d 'only check the configuration, and list all mistakes'
complete -c famezd -n '__famezd_in famezd' -l fabric -x -d 'serve only the fabric of standalone.d/NAME.yaml beside FILE, which need not be there, and without a supervisor: no famezctl, no metrics'
complete -c famezd -n '__famezd_in famezd' -l daemon -d 'for hosts without systemd: become a daemon, and return when it is ready; it logs to the system\'s log'
complete -c famezd -n '__famezd_in famezd' -l pidfile -r -F -d 'write the process id to FILE while it runs'
complete -c famezd -n '__famezd_in famezd' -l logfile -r -F -d 'add the log to FILE'
complete -c famezd -n '__famezd_in famezd' -l version -d 'show program\'s version number and exit'
