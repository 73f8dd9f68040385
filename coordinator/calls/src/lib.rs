//! [`service`]: what `#[tonic::async_trait]` is on a service's implementation, for less of the compiler's time.
//!
//! Both make of each `async fn` one that gives a boxed future that is `Send`. `async_trait` does that in the method itself, whose lifetimes
//! have bounds (`'life0: 'async_trait`). What the compiler finds out under bounds it keeps for these only, so for each service it went
//! anew through all futures below, down to the database's: more than a third of what reading the coordinator took. Here the future is boxed in a method
//! beside the trait, that has no bounds, so what is found out counts for all.

use proc_macro::TokenStream;
use proc_macro2::{Group, Ident, TokenStream as Tokens, TokenTree};
use quote::{format_ident, quote};
use syn::{FnArg, ImplItem, ImplItemFn, ItemImpl, ReturnType, parse_macro_input};

/// Makes an implementation of a service that tonic has generated of one with `async fn(&self, request) -> Result<…>`.
#[proc_macro_attribute]
pub fn service(_: TokenStream, item: TokenStream) -> TokenStream {
    let service = parse_macro_input!(item as ItemImpl);
    expand(service).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn expand(mut service: ItemImpl) -> syn::Result<Tokens> {
    let of = service.self_ty.clone();
    let Some((path, _)) = service.trait_.clone() else {
        return Err(syn::Error::new_spanned(&service.self_ty, "an implementation of a service is expected"));
    };
    let own = quote!(<#of as #path>);
    let mut calls = Vec::new();
    for item in &mut service.items {
        let ImplItem::Fn(method) = item else { continue };
        if method.sig.asyncness.is_none() {
            continue;
        }
        let (in_trait, beside) = split(method, &own)?;
        *item = ImplItem::Verbatim(in_trait);
        calls.push(beside);
    }
    Ok(quote! {
        #service
        impl #of { #(#calls)* }
    })
}

/// The method of the trait, and the one beside it with what was written.
fn split(method: &ImplItemFn, own: &Tokens) -> syn::Result<(Tokens, Tokens)> {
    let ImplItemFn { attrs, sig, block, .. } = method;
    let (name, beside) = (&sig.ident, format_ident!("call_{}", sig.ident));
    let [FnArg::Receiver(_), FnArg::Typed(argument)] = sig.inputs.iter().collect::<Vec<_>>()[..] else {
        return Err(syn::Error::new_spanned(&sig.inputs, "a call has &self and a request"));
    };
    let ReturnType::Type(_, answer) = &sig.output else {
        return Err(syn::Error::new_spanned(sig, "a call has an answer"));
    };
    let (pattern, request) = (&argument.pat, &argument.ty);
    let (answer_beside, block) = (owned(quote!(#answer), own), owned(quote!(#block), own));
    let future = |lifetime: Tokens, answer: &Tokens| quote!(::core::pin::Pin<::std::boxed::Box<dyn ::core::future::Future<Output = #answer> + ::core::marker::Send + #lifetime>>);
    let (in_trait, boxed) =
        (future(quote!('async_trait), &quote!(#answer)), future(quote!('_), &answer_beside));
    Ok((
        quote! {
            fn #name<'life0, 'async_trait>(&'life0 self, request: #request) -> #in_trait
            where 'life0: 'async_trait, Self: 'async_trait {
                self.#beside(request)
            }
        },
        quote! {
            #(#attrs)*
            fn #beside(&self, #pattern: #request) -> #boxed {
                ::std::boxed::Box::pin(async move #block)
            }
        },
    ))
}

/// With the trait's own types (`Self::Stream`) as they are called outside of it.
fn owned(tokens: Tokens, own: &Tokens) -> Tokens {
    let mut all: Vec<TokenTree> = tokens.into_iter().collect();
    for tree in &mut all {
        if let TokenTree::Group(group) = tree {
            let mut inner = Group::new(group.delimiter(), owned(group.stream(), own));
            inner.set_span(group.span());
            *tree = TokenTree::Group(inner);
        }
    }
    let mut made = Tokens::new();
    let mut rest = all.as_slice();
    while let [first, others @ ..] = rest {
        match others {
            [TokenTree::Punct(one), TokenTree::Punct(two), TokenTree::Ident(name), ..]
                if is_self(first) && one.as_char() == ':' && two.as_char() == ':' && is_stream(name) =>
            {
                made.extend(own.clone());
            }
            _ => made.extend([first.clone()]),
        }
        rest = others;
    }
    made
}

fn is_self(tree: &TokenTree) -> bool {
    matches!(tree, TokenTree::Ident(ident) if ident == "Self")
}

/// As tonic calls a trait's types: all are streams of answers.
fn is_stream(name: &Ident) -> bool {
    name.to_string().ends_with("Stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        expand(syn::parse_str(text).unwrap()).unwrap().to_string().replace(' ', "")
    }

    #[test]
    fn a_call_is_boxed_where_nothing_has_bounds() {
        let made = expanded(
            "impl Greeter for Greetings {
                 type WatchStream = Answers;
                 async fn watch(&self, request: Request<In>) -> Result<Response<Self::WatchStream>, Status> { self.go(request).await }
             }",
        );
        for part in [
            "typeWatchStream=Answers;",
            "where'life0:'async_trait,Self:'async_trait{self.call_watch(request)}}",
            "implGreetings{fncall_watch(&self,request:Request<In>)",
            "Output=Result<Response<<GreetingsasGreeter>::WatchStream>,Status>",
            "+'_>>{::std::boxed::Box::pin(asyncmove{self.go(request).await})}}",
        ] {
            assert!(made.contains(part), "{part} isn't in {made}");
        }
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let of = |text: &str| expand(syn::parse_str(text).unwrap()).map(|_| ()).unwrap_err().to_string();
        assert_eq!(of("impl Greetings {}"), "an implementation of a service is expected");
        let no_request = of("impl Greeter for Greetings { async fn greet(&self) -> u8 { 1 } }");
        assert_eq!(no_request, "a call has &self and a request");
        assert_eq!(
            of("impl Greeter for Greetings { async fn greet(&self, _: u8) {} }"),
            "a call has an answer"
        );
    }
}
