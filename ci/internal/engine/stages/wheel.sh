# The Python package: a wheel without the client, and one with it.
. /stages/stage.sh
mkdir -p /build/python /build/site
for deb in /python/*; do dpkg-deb --extract "$deb" /build/python; done
export PYTHONHOME=/build/python/usr PYTHONDONTWRITEBYTECODE=1
python=/build/python/usr/bin/python3.11
for wheel in /wheels/*; do "$python" -m zipfile --extract "$wheel" /build/site; done
export PYTHONPATH=/build/site
cp -R /src /build/project
cd /build/project
"$python" -m hatchling build --target wheel --directory /out
LLCUDA_CLIENT=client "$python" -m hatchling build --target wheel --directory /out
finish
