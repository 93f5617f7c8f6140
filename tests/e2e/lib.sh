# Shared by the stories: assertions that wait for a state instead of sleeping, and counts.
passed=0 failed=0 skipped=0
clients=$(cd "${KNARR_CLIENTS:-$root/target/clients}" && pwd)
export PATH="$clients:$PATH"

say() { printf '    %s\n' "$*"; }

# check NAME COMMAND...: one assertion.
check() {
    local name=$1 out start=$SECONDS
    shift
    if out=$("$@" 2>&1); then passed=$((passed + 1)); echo "  ok   $name ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        echo "  FAIL $name ($((SECONDS - start)) s): $*"
        printf '%s\n' "$out" | tail -n 15 | sed 's/^/       /'
        return 1
    fi
}

# skip NAME REASON: what cannot be run here is counted and says why.
skip() {
    skipped=$((skipped + 1))
    echo "  SKIPPED $1: $2"
}

# within SECONDS COMMAND...: repeats a command until it succeeds.
within() {
    local limit=$1 out end
    shift
    end=$((SECONDS + limit))
    until out=$("$@" 2>&1); do
        [ "$SECONDS" -lt "$end" ] || { printf '%s\n' "$out"; echo "not within $limit s: $*"; return 1; }
        sleep 0.2
    done
    printf '%s\n' "$out"
}

# says TEXT COMMAND...: the output contains TEXT.
says() {
    local text=$1 out code=0
    shift
    out=$("$@" 2>&1) || code=$?
    case $out in *"$text"*) return 0 ;; esac
    printf 'expected to see: %s\nexit code %s, output:\n%s\n' "$text" "$code" "$out"
    return 1
}

# fails COMMAND...: the command must not succeed.
fails() { ! "$@"; }
