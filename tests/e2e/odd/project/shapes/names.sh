# Makes files of unusual names below the folder $1.
mkdir -p "$1/with space/ two  spaces " "$1/-dash"
echo space >"$1/with space/ two  spaces /file name.txt"
echo dash >"$1/-dash/--file"
echo symbols >"$1/+,=@%#!~;&'()[]{}.txt"
printf 'accent\n' >"$1/$(printf 'caf\303\251').txt"
printf 'kanji\n' >"$1/$(printf '\346\274\242\345\255\227')"
