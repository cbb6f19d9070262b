# The words that a running famezd knows: fabrics (status), or the ids and names of a fabric's peers. A name is written by
# a guest, so none is taken but of harmless characters.
_famez_ask() {
    famezctl ${control:+-s "$control"} --json "$@" 2>/dev/null |
        sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
}

# Completes the word at the cursor, from the caller's tables: takes (options with an argument, by "path option", and what
# it can be), offers (the words that each path has), places (what stands at "path number").
_famez_complete() {
    local current=${COMP_WORDS[COMP_CWORD]} path=$1 pending='' control='' fabric='' place=1 i word wanted
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == '=' ]]; then
            continue
        elif [[ $pending ]]; then
            case $pending in
                "$1 -s" | "$1 --socket" | "$1 -S") control=$word ;;
                "$1 -f" | "$1 --fabric") fabric=$word ;;
            esac
            pending=
        elif [[ ${takes["$path $word"]+known} ]]; then
            pending="$path $word"
        elif [[ $word == -* ]]; then
            continue
        elif [[ ${offers["$path/$word"]+known} ]]; then
            path+=/$word
        else
            [[ $1 == famezctl && $place == 1 ]] && fabric=$word
            ((place++))
        fi
    done
    if [[ $1 == famez-client && $control ]]; then
        # It is told the fabric's own socket; famezctl's is beside it.
        fabric=${control##*/} fabric=${fabric%.sock} control=$(dirname "$control")/control.sock
    fi
    if [[ $pending ]]; then
        wanted=${takes[$pending]}
    elif [[ $current == -* ]]; then
        wanted=${offers[$path]}
    else
        wanted=${places["$path $place"]}
    fi
    COMPREPLY=()
    for word in $wanted; do
        case $word in
            @files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
            @directories) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
            @fabrics) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(_famez_ask status) ;;
            @peers) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(_famez_ask peers "$fabric") ;;
            *) COMPREPLY+=("$word") ;;
        esac
    done
    for i in "${!COMPREPLY[@]}"; do
        [[ ${COMPREPLY[i]} == "$current"* ]] || unset 'COMPREPLY[i]'
    done
    COMPREPLY=("${COMPREPLY[@]}")
}
