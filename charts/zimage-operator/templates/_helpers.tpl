{{/* Labels that select the operator's pods; they never change between versions. */}}
{{- define "zimage-operator.selectorLabels" -}}
app.kubernetes.io/name: zimage-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "zimage-operator.labels" -}}
{{ include "zimage-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Cluster-wide objects carry the namespace too, so that two releases of one name do not meet. */}}
{{- define "zimage-operator.clusterName" -}}
{{ .Release.Namespace }}-{{ .Release.Name }}
{{- end }}

{{/* [registry/]repository:tag. Call with (list $ REPOSITORY). */}}
{{- define "zimage-operator.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}
