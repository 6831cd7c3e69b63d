# A certificate authority, the certificates of every part, and a kubeconfig for each that talks to the API server.
# Keys are P-256; everything is made anew for each start, so nothing expires and nothing is worth stealing. All of it is
# valid since the day before: a clock may be behind.

request() { # request NAME SUBJECT
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2> /dev/null
}

sign() { # sign NAME AUTHORITY EXTENSIONS [OPTION...]
  local name=$1 authority=$2 extensions=$3
  shift 3
  cat > ca.conf << 'CONF'
[ca]
default_ca = this
[this]
database = index
new_certs_dir = issued
default_md = sha256
unique_subject = no
rand_serial = yes
policy = any
[any]
organizationName = optional
commonName = supplied
CONF
  mkdir -p issued
  : > index
  openssl ca -batch -notext -config ca.conf -cert "$authority.crt" -keyfile "$authority.key" "$@" \
    -startdate "$(date --utc --date=yesterday +%Y%m%d%H%M%SZ)" -days 3650 \
    -extfile <(printf '%s\n' "$extensions") -in "$name.csr" -out "$name.crt" 2> /dev/null
  rm -r "$name.csr" ca.conf index* issued
}

authority() { # authority NAME
  request "$1" "/CN=zimage-$1"
  sign "$1" "$1" $'basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash' -selfsign
}

certificate() { # certificate NAME SUBJECT serverAuth|clientAuth AUTHORITY [ALTERNATIVE-NAMES]
  request "$1" "$2"
  local extensions=$'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage='$3
  [ $# -lt 5 ] || extensions+=$'\nsubjectAltName='$5
  sign "$1" "$4" "$extensions"
}

make_pki() { # make_pki FOLDER NODES
  mkdir -p "$1"
  (
    cd "$1" || exit
    umask 077
    authority ca
    authority front-proxy-ca
    openssl ecparam -genkey -name prime256v1 -noout -out service-account.key
    openssl ec -in service-account.key -pubout -out service-account.pub 2> /dev/null
    local in_cluster=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    certificate kube-apiserver /CN=kube-apiserver serverAuth ca \
      "$in_cluster,DNS:localhost,IP:127.0.0.1,IP:10.88.0.1,IP:10.96.0.1"
    certificate kubelet-client /O=system:masters/CN=kube-apiserver clientAuth ca
    certificate front-proxy /CN=front-proxy clientAuth front-proxy-ca
    certificate admin /O=system:masters/CN=admin clientAuth ca
    local number node part
    for number in $(seq "$2"); do
      node=node$number
      certificate "$node" "/O=system:nodes/CN=system:node:$node" clientAuth ca
      certificate "$node-server" "/O=system:nodes/CN=system:node:$node" serverAuth ca "DNS:$node,IP:127.0.0.1,IP:10.88.0.$number"
    done
    for part in kube-controller-manager kube-scheduler kube-proxy; do certificate $part /CN=system:$part clientAuth ca; done
  )
}

kubeconfig() { # kubeconfig PKI-FOLDER USER SERVER
  cat << YAML
apiVersion: v1
kind: Config
clusters:
  - name: zimage
    cluster:
      server: $3
      certificate-authority-data: $(base64 -w0 "$1/ca.crt")
users:
  - name: $2
    user:
      client-certificate-data: $(base64 -w0 "$1/$2.crt")
      client-key-data: $(base64 -w0 "$1/$2.key")
contexts:
  - name: zimage
    context: {cluster: zimage, user: $2}
current-context: zimage
YAML
}

make_kubeconfigs() { # make_kubeconfigs STATE HOST-PORT NODES
  local user
  mkdir -p "$1/kubeconfigs"
  (
    umask 077
    for user in admin kube-controller-manager kube-scheduler kube-proxy $(seq --format=node%g "$3"); do
      kubeconfig "$1/pki" "$user" https://10.88.0.1:6443 > "$1/kubeconfigs/$user"
    done
    kubeconfig "$1/pki" admin "https://127.0.0.1:$2" > "$1/kubeconfig"
  )
}
