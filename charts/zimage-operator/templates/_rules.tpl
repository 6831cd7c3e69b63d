{{/* What the operator may do in a namespace that it watches. */}}
{{- define "zimage-operator.rules" -}}
- apiGroups: [zimage.dev]
  resources: [zimagedeployments]
  verbs: [get, list, watch]
- apiGroups: [zimage.dev]
  resources: [zimagedeployments/status]
  verbs: [get, patch]
# Owner references that block deletion need it where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [zimage.dev]
  resources: [zimagedeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Gateways' accounts are bound to the one role for gateways; the operator can grant no other.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [{{ if .Values.watchNamespaces }}roles{{ else }}clusterroles{{ end }}]
  resourceNames: [{{ include "zimage-operator.gatewayRole" . }}]
  verbs: [bind]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Why a pod does not start is told by the kubelet's events alone.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What a gateway may do in its namespace. */}}
{{- define "zimage-operator.gatewayRules" -}}
- apiGroups: [zimage.dev]
  resources: [zimagedeployments]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}

{{- define "zimage-operator.gatewayRole" -}}
{{ include "zimage-operator.clusterName" . }}-gateway
{{- end }}

{{- define "zimage-operator.subject" -}}
- kind: ServiceAccount
  name: {{ .Release.Name }}
  namespace: {{ .Release.Namespace }}
{{- end }}
