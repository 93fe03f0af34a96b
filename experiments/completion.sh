# bash gives a function only the part of a word behind "=", so the answers lose the part before it.
_tracegrad() {
    local line="${COMP_LINE:0:$COMP_POINT}" IFS=$'\n'
    local word="${line##* }"
    COMPREPLY=($(tracegrad completion query "$line" 2>/dev/null))
    if [[ "${COMP_WORDBREAKS-}" == *=* && "$word" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _tracegrad tracegrad
