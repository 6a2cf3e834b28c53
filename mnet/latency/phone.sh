#!/bin/sh
# Times the models of this folder on an Android phone, with the runtimes' own benchmark programs.
#
#     sh run.sh                        # again after an interruption: rounds that are complete are kept
#     ROUNDS=30 BIG_CORES=80 sh run.sh
#
# Needed: `adb` (Android's platform tools), a phone with USB debugging switched on, and in bin/, built for its processor
# (arm64-v8a), with whatever shared libraries they need beside them:
#
@SOURCES@
#
# In every round each model runs once, in a random order, as a process of its own: what warms or slows the phone meets
# them all. What the programs print goes to printed/<round>-<model>.txt, for `mnet.latency.import_results`.
# For steady clocks: battery charged, cable in, flight mode, screen off, case off; PAUSE=10 where the phone grows hot.
set -u
cd "$(dirname "$0")" || exit 1

ROUNDS=${ROUNDS:-@ROUNDS@}          # at most @ROUNDS@; an interval needs @MIN_ROUNDS@
RUNS=${RUNS:-@RUNS@}            # inferences a process
WARMUP=${WARMUP:-@WARMUP@}        # before them, where the program can
THREADS=${THREADS:-@THREADS@}
BIG_CORES=${BIG_CORES:-@BIG_CORES@}   # mask of the cores to run on, hexadecimal: f0 = 4 to 7, 80 = 7 alone
PAUSE=${PAUSE:-1}           # seconds between two processes
REMOTE=${REMOTE:-/data/local/tmp/mnet}
# More than one phone: set ANDROID_SERIAL to one that `adb devices` lists.

fail() { echo "error: $1" >&2; exit 1; }

# On the phone, standard input closed: adb would read what this script reads.
phone() { adb shell "$1" </dev/null 2>&1 | tr -d '\r'; }

for number in "$ROUNDS" "$RUNS" "$WARMUP" "$THREADS" "$PAUSE"; do
    case $number in '' | *[!0-9]*) fail "ROUNDS, RUNS, WARMUP, THREADS and PAUSE are whole numbers, not '$number'" ;; esac
done
case $BIG_CORES in '' | *[!0-9a-fA-F]*) fail "BIG_CORES is a hexadecimal mask as f0, not '$BIG_CORES'" ;; esac
case $REMOTE in *[!a-zA-Z0-9/._-]* | '') fail "REMOTE is a plain path, not '$REMOTE'" ;; esac

command -v adb >/dev/null || fail "adb is not installed: it is in Android's platform tools"
adb start-server >/dev/null 2>&1
state=$(adb get-state 2>&1)
[ "$state" = device ] || fail "no phone is ready (adb says: $state): switch USB debugging on, accept this computer's key"
for binary in @BINARIES@; do
    [ -f "bin/$binary" ] || fail "bin/$binary is missing: the head of run.sh says where it comes from"
done

# Which phone. Its runs are not to be mixed with another's.
told="model=$(phone 'getprop ro.product.manufacturer') $(phone 'getprop ro.product.model')
soc=$(phone 'getprop ro.soc.model') $(phone 'getprop ro.board.platform')
android=$(phone 'getprop ro.build.version.release') $(phone 'getprop ro.build.id')
abi=$(phone 'getprop ro.product.cpu.abi')
big_cores=$BIG_CORES
threads=$THREADS
runs=$RUNS"
mkdir -p printed
if [ -f printed/device.txt ]; then
    [ "$told" = "$(cat printed/device.txt)" ] || fail "printed/ is of another phone or setting; move it away to start anew"
else
    printf '%s\n' "$told" >printed/device.txt
fi

# The highest core of the mask stands for its cluster's clock.
core=-1 bits=$((0x$BIG_CORES))
while [ "$bits" -gt 0 ]; do core=$((core + 1)) bits=$((bits / 2)); done
[ "$core" -ge 0 ] || fail "BIG_CORES=$BIG_CORES is no core"

# One line: when, the governor, the frequency in kHz, the battery in tenths of a degree, the first thermal zone.
state_of_phone() {
    clock=/sys/devices/system/cpu/cpu$core/cpufreq
    echo "round=$1" "governor=$(phone "cat $clock/scaling_governor 2>/dev/null")" \
        "khz=$(phone "cat $clock/scaling_cur_freq 2>/dev/null")" \
        "battery=$(phone 'dumpsys battery' | sed -n 's/^ *temperature: *//p')" \
        "zone0=$(phone 'cat /sys/class/thermal/thermal_zone0/temp 2>/dev/null')" >>printed/state.txt
}

adb shell "mkdir -p $REMOTE/bin $REMOTE/models" </dev/null || fail "cannot write to $REMOTE on the phone"
adb push bin/. "$REMOTE/bin/" >/dev/null || fail "adb could not copy bin/ to the phone"
adb push models/. "$REMOTE/models/" >/dev/null || fail "adb could not copy models/ to the phone"
adb shell "chmod 755 $REMOTE/bin/*" </dev/null

# run MODEL: what its program prints, then its exit status.
run() {
    MODEL=$REMOTE/models/$1 LOG=
    case $1 in
@COMMANDS@
    esac
    [ -z "$LOG" ] || adb logcat -c </dev/null
    adb shell "cd $REMOTE && LD_LIBRARY_PATH=$REMOTE/bin taskset $BIG_CORES $REMOTE/bin/$COMMAND" </dev/null 2>&1
    status=$?
    [ -z "$LOG" ] || adb logcat -d -s "$LOG" </dev/null 2>&1 # where ExecuTorch writes on Android
    echo "exit status: $status"
}

round=0
while read -r models; do # a line a round, its models in random order
    round=$((round + 1))
    [ "$round" -le "$ROUNDS" ] || break
    [ ! -f "printed/$round-${models##* }.txt" ] || continue # its last model is there, so it is complete
    state_of_phone "$round"
    for model in $models; do
        run "$model" | tr -d '\r' >printed/.running
        [ "$(adb get-state 2>/dev/null)" = device ] || fail "the phone went away in round $round; attach it, call again"
        mv printed/.running "printed/$round-$model.txt"
        sleep "$PAUSE"
    done
    echo "round $round of $ROUNDS"
done <schedule.txt
state_of_phone end
echo "done; now: python experiments/latency_android.py --import=$PWD"
