# The words that a running famezd knows: fabrics (status), or the ids and names of a fabric's peers. A name is written by
# a guest, so none is taken but of harmless characters.
_famez_ask() {
    famezctl ${control:+-s} ${control:+$control} --json "$@" 2>/dev/null |
        sed -nE 's/^ {4,6}"(id|name)": "?([A-Za-z0-9][A-Za-z0-9_.~-]*)"?,?$/\2/p'
}

_famez_fabrics() { compadd "$@" -- ${(f)"$(_famez_ask status)"} }

# The fabric is the first argument where no option names it.
_famez_peers() { compadd "$@" ${(f)"$(_famez_ask peers ${fabric:-${(Q)line[1]}})"} }
